"""extract-language-model: the language model of a multimodal checkpoint as a checkpoint of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from surgeon import model_ref
from surgeon.arch.catalogue import quantised
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.sidecars import PROCESSOR_FILES, sidecars
from surgeon.errors import UsageError
from surgeon.multimodal.part import language_part
from surgeon.ops.plan import Copy, Input, OutTensor, Plan, source_to_json
from surgeon.progress import SILENT, Progress

OPERATION = "extract-language-model"


class ExtractSettings(BaseModel):
    """The options of `surgeon extract-language-model`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="A multimodal model: a local folder, or org/name[@revision] of the hub.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    seed: int = Field(0, description="Draws nothing; kept in the record.")


def plan_extract(settings: ExtractSettings, progress: Progress = SILENT) -> Plan:
    """The plan of a checkpoint with the language model's tensors, byte for byte, under the names of its own class.

    Towers for images, videos and sounds, projectors and blocks that predict further tokens (MTP) stay behind, and so
    do the files of the processor; `graft-language-model` puts the language model back among them. Raises UsageError on
    a model with an adapter and on one that is a language model alone, SurgeonError as `language_part` does.
    """
    reference = model_ref.resolve(settings.model)
    if reference.adapter is not None:
        raise UsageError("an adapter does not go along", settings.model, "fold it first: surgeon fold-adapter")
    checkpoint = Checkpoint.open(reference.path)
    if checkpoint.config.get("quantization_config"):
        raise quantised(f"{reference.path}: quantization_config")
    part = language_part(checkpoint)
    if not part.left and part.prefix == part.base and part.head == "lm_head.":
        raise UsageError(
            "the checkpoint is a language model alone already", settings.model, "give it to the operations as it is"
        )
    tensors = tuple(
        OutTensor(own, checkpoint.tensors[name].dtype, checkpoint.tensors[name].shape, Copy("model", name))
        for name, own in part.names.items()
    )
    left = _by_module(part.left)
    if left:
        progress.say(f"left behind: {', '.join(f'{module} ({count} tensors)' for module, count in left.items())}")
    return Plan(
        operation=OPERATION,
        settings={},
        seed=settings.seed,
        inputs=(Input("model", reference.path, lambda: checkpoint.digest, reference.name),),
        tensors=tensors,
        config=part.config,
        lineage=Lineage(
            operation=OPERATION,
            kind="surgery",
            seed=settings.seed,
            initial={t.name: source_to_json(t.source) for t in tensors if t.source != Copy("model", t.name)},
        ),
        carried={name: "model" for name in sidecars(reference.path) if name not in PROCESSOR_FILES},
    )


def shown(plan: Plan) -> dict[str, Any]:
    """What the result and --dry-run add: the tensors that stay behind, by module."""
    checkpoint = Checkpoint.open(plan.inputs[0].path)
    taken = {t.source.tensor for t in plan.tensors if isinstance(t.source, Copy)}
    return {"left": _by_module(tuple(name for name in checkpoint.tensors if name not in taken))}


def _by_module(names: tuple[str, ...]) -> dict[str, int]:
    """Outermost module ("model.visual" where `model` holds all) -> how many of the names lie in it."""
    found: dict[str, int] = {}
    for name in names:
        first, *rest = name.split(".")
        module = f"{first}.{rest[0]}" if first == "model" and len(rest) > 1 else first
        found[module] = found.get(module, 0) + 1
    return found
