"""What an adapter must be for a trainer that loads it with PEFT."""

from __future__ import annotations

from surgeon.adapters.peft_format import open_adapter
from surgeon.adapters.start_file import changes_base
from surgeon.errors import SurgeonError
from surgeon.train.exported import ToExport


def check_adapter(run: ToExport) -> None:
    """Refuse an adapter that PEFT alone would load as another model, or that is no LoRA. Raises SurgeonError."""
    if run.adapter is None:
        return
    kind = run.adapter_config.get("peft_type")
    if kind != "LORA":
        raise SurgeonError(
            f"{run.settings.to} loads LoRA adapters; this one is {kind}",
            str(run.adapter),
            "train it with `surgeon cpt`",
        )
    if changes_base(open_adapter(run.adapter)):
        raise SurgeonError(
            "the adapter took its start out of the model's weights, and PEFT alone would decompose them once more",
            str(run.adapter),
            "train it with `surgeon cpt`, or attach one of the kind lora",
        )
