"""The first values of an adapter that PEFT makes from the model's weights, or from what it computes on a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.adapters.kind import Kind
from surgeon.adapters.peft_format import PREFIX, written
from surgeon.adapters.start_file import WEIGHTS
from surgeon.adapters.targets import Chosen
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.model_ref import name_and_revision
from surgeon.ops.plan import Apply, OutTensor
from surgeon.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from surgeon.adapters.attach import AttachSettings

WINDOW = 512  # tokens of a batch of the probe, one row each: PEFT's preparation of CorDA takes no more


def model_start(
    settings: AttachSettings, checkpoint: Checkpoint, kind: Kind, chosen: Chosen, config: Any, progress: Progress
) -> tuple[list[OutTensor], dict[str, Any], dict[str, bytes]]:
    """(tensors, adapter_config.json, {WEIGHTS of the start: the tensors}); see surgeon.adapters.start_file.

    PEFT runs on the model in float32, seeded. Raises SurgeonError on what PEFT refuses.
    """
    import torch
    from peft import get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save

    from surgeon.loading import load_model, quiet, resolve_device

    with progress.task(f"starting {settings.kind}", None, "modules") as advance, quiet():
        model = load_model(checkpoint.path, device=resolve_device(settings.device), dtype=torch.float32)
        texts = _texts(settings, checkpoint, model) if kind.reads_text else []
        torch.manual_seed(settings.seed)
        try:
            with torch.no_grad():
                if kind.before is not None:
                    kind.before(model, config, texts)
                wrapped = get_peft_model(model, config)
                if kind.after is not None:
                    kind.after(wrapped, config, texts)
        except (ValueError, TypeError, RuntimeError, KeyError, IndexError, NotImplementedError) as error:
            raise SurgeonError(
                f"PEFT cannot start {settings.kind}: {(str(error) or type(error).__name__).splitlines()[0]}",
                str(checkpoint.path),
                "choose other --targets, a smaller --rank, or another --kind",
            ) from error
        _check_modules(kind, wrapped, chosen, str(checkpoint.path))
        state = get_peft_model_state_dict(wrapped)
        # copies: some kinds have one basis for all modules, and a file holds each tensor for itself
        held = {name: t.detach().to("cpu", torch.float32, copy=True).contiguous() for name, t in sorted(state.items())}
        _check_ranks(kind, held, str(checkpoint.path))
        _check_magnitudes(held, str(checkpoint.path))
        advance(1)
    tensors = []
    for name, tensor in held.items():
        source = Apply("kernel:stored", options={"matrix": name, "suffix": ""}, attachment=WEIGHTS)
        tensors.append(OutTensor(name, "F32", tuple(tensor.shape), source))
    made = wrapped.peft_config["default"]
    # PEFT puts the folder's full path there
    made.base_model_name_or_path, made.revision = name_and_revision(settings.model)
    return tensors, written(made), {WEIGHTS: save(held)}


def _check_modules(kind: Kind, wrapped: Any, chosen: Chosen, where: str) -> None:
    """PEFT passes over modules of a type that a method does not know. What EVA leaves out, it has judged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    there = {n.removeprefix(PREFIX) for n, m in wrapped.named_modules() if isinstance(m, BaseTunerLayer)}
    absent = [m for m in [*(t.module for t in chosen.linear), *chosen.outside] if m not in there]
    if absent and not (kind.reads_text and there):
        raise SurgeonError(
            f"PEFT puts no {kind.peft_type} on {absent[0]}: it does not know modules of this type",
            where,
            "use --kind lora, or other --targets",
        )


def _check_ranks(kind: Kind, held: dict[str, Tensor], where: str) -> None:
    """A matrix has no more parts than its smaller side: PEFT takes what there is and says nothing."""
    for name, tensor in held.items():
        if kind.changes_base and name.endswith("lora_A.weight") and tensor.shape[0] != kind.config["r"]:
            raise SurgeonError(
                f"{name} has rank {tensor.shape[0]}: the matrix has no {kind.config['r']} parts to start from",
                where,
                f"choose a --rank of at most {tensor.shape[0]}",
            )


def _check_magnitudes(held: dict[str, Tensor], where: str) -> None:
    """DoRA divides by the length of a row: PEFT gives NaN where a row is zero, as in an identity block."""
    for name, tensor in held.items():
        if name.endswith("lora_magnitude_vector") and not bool(tensor.all()):
            raise SurgeonError(
                f"{name.removeprefix(PREFIX).rpartition('.')[0]} has rows of zeros, which DoRA divides by",
                where,
                "use --kind lora; or other --blocks or --targets than the silent parts of new blocks",
            )


def _texts(settings: AttachSettings, checkpoint: Checkpoint, model: Any) -> list[Tensor]:
    """Token ids [1, up to WINDOW] of the probe, on the model's device."""
    import torch

    from surgeon.data.items import prepare, take
    from surgeon.data.source import parse_corpus
    from surgeon.loading import context_length, load_tokenizer

    assert settings.probe is not None
    tokenizer = load_tokenizer(checkpoint.path)
    corpus = parse_corpus(settings.probe, weighted=False)
    items = prepare(take(corpus, tokenizer, settings.probe_tokens), tokenizer)
    size = min(WINDOW, context_length(model) or WINDOW)
    device = next(model.parameters()).device
    rows = [item.ids[at : at + size] for item in items for at in range(0, len(item.ids), size)]
    return [torch.from_numpy(row).to(device)[None] for row in rows if len(row) > 1]
