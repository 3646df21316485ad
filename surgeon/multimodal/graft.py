"""graft-language-model: a language model that was operated on, back in the multimodal checkpoint it came from."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from surgeon import model_ref
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.sidecars import PROCESSOR_FILES, sidecars
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.shards import kept_shards
from surgeon.multimodal.grafted_config import check_first_blocks, grafted_config
from surgeon.multimodal.media_tokens import check_media_tokens
from surgeon.multimodal.part import language_part
from surgeon.ops.plan import Copy, Input, OutTensor, Plan, source_to_json
from surgeon.progress import SILENT, Progress

OPERATION = "graft-language-model"


class GraftSettings(BaseModel):
    """The options of `surgeon graft-language-model`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="The multimodal model: a local folder, or org/name[@revision] of the hub.")
    language_model: str = Field(
        description="What became of its language model (surgeon extract-language-model): a folder, or org/name."
    )
    out: Path = Field(description="The folder to write; it must not exist yet.")
    seed: int = Field(0, description="Draws nothing; kept in the record.")


def plan_graft(settings: GraftSettings, progress: Progress = SILENT) -> Plan:
    """The plan of the multimodal checkpoint with another language model of the same type and width inside.

    It may be deeper, have more tokens, other positions, another head than the one that is there; what its config.json
    says otherwise than that of the extracted one goes into the part's configuration, and nothing else changes there.
    Tokenizer, chat template and generation settings are the language model's, the processor's files the multimodal
    model's. Raises UsageError on adapters, SurgeonError where the language model cannot take the other one's place.
    """
    references = {}
    for role, name in (("model", settings.model), ("language_model", settings.language_model)):
        references[role] = model_ref.resolve(name)
        if references[role].adapter is not None:
            raise UsageError("an adapter does not go along", name, "fold it first: surgeon fold-adapter")
    outer, inner = (Checkpoint.open(reference.path) for reference in references.values())
    part = language_part(outer)
    if not any(isinstance(outer.config.get(key), dict) for key in ("text_config", "vision_config")):
        raise UsageError(
            "the model is a language model alone, by its config.json", settings.model, "give a multimodal model"
        )
    kinds = [{c.tensors[n].dtype for n in names} for c, names in ((outer, part.names), (inner, inner.tensors))]
    if kinds[0] != kinds[1]:
        raise SurgeonError(
            f"the language model is stored as {', '.join(sorted(kinds[1]))}, that of the multimodal model as "
            f"{', '.join(sorted(kinds[0]))}",
            str(inner.path),
            "write it in the type of the multimodal model",
        )
    config = grafted_config(outer.config, part, inner.config, str(inner.path))
    check_first_blocks(outer.config, part, inner)
    check_media_tokens(outer.config, outer.path, inner.path)
    tensors = [
        OutTensor(part.inside(name), t.dtype, t.shape, Copy("language_model", name))
        for name, t in inner.tensors.items()
    ]
    tensors += [OutTensor(n, outer.tensors[n].dtype, outer.tensors[n].shape, Copy("model", n)) for n in part.left]
    tensors = _in_the_order_of(outer, tensors)
    here = {t.name for t in tensors}
    others = [name for name in sidecars(outer.path) if name in PROCESSOR_FILES]
    own = [name for name in sidecars(inner.path) if name not in PROCESSOR_FILES]
    return Plan(
        operation=OPERATION,
        settings={},
        seed=settings.seed,
        inputs=tuple(
            Input(role, c.path, c.digest, references[role].name)
            for role, c in (("model", outer), ("language_model", inner))
        ),
        tensors=tuple(tensors),
        config=config,
        lineage=Lineage(
            operation=OPERATION,
            kind="surgery",
            seed=settings.seed,
            initial={t.name: source_to_json(t.source) for t in tensors if t.source != Copy("model", t.name)},
        ),
        carried=dict.fromkeys(others, "model") | dict.fromkeys(own, "language_model"),
        shards=kept_shards(outer, tensors, {name: name for name in outer.tensors if name in here}, link=False),
    )


def _in_the_order_of(outer: Checkpoint, tensors: list[OutTensor]) -> list[OutTensor]:
    """Those that the multimodal checkpoint has, in its order, then the others."""
    place = {name: number for number, name in enumerate(outer.tensors)}
    return sorted(tensors, key=lambda t: place.get(t.name, len(place)))
