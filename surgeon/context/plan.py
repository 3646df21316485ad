"""extend-context: the same tensors under a configuration whose positions reach further."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from surgeon import model_ref
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import ConfigBefore, ContextChange, Lineage
from surgeon.checkpoint.sidecars import sidecars
from surgeon.context.change import Changed, Wanted, changed
from surgeon.context.promise import check_frequencies
from surgeon.context.tokenizer_length import with_length
from surgeon.data.numbers import Count, parse_count
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.shards import kept_shards
from surgeon.number import number
from surgeon.ops.plan import Copy, Input, OutTensor, Plan
from surgeon.progress import SILENT, Progress


def _number(value: Any) -> Any:
    """`500k` as well as 500000 or 1e6."""
    try:
        return number(value)
    except (TypeError, ValueError):
        return float(parse_count(value))


class ExtendContextSettings(BaseModel):
    """The options of `surgeon extend-context`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="A local folder, or org/name[@revision] of the hub.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    rope_base: Annotated[float, BeforeValidator(_number)] | None = Field(
        None, gt=1, allow_inf_nan=False, description="The base of the rotary frequencies, such as 500000."
    )
    max_length: Count | None = Field(None, gt=1, description="The longest text in tokens (k, M).")
    rope_scaling: str | None = Field(
        None, description="none, linear:F, dynamic:F, yarn:F or llama3:F, as transformers has them. [what is there]"
    )
    lower_base: bool = Field(False, description="Take a base below the present one.")
    seed: int = Field(0, description="Draws nothing; kept in the record.")
    link: bool = Field(
        False,
        description="The shards become second names of MODEL's files, with no byte copied: a later edit of one in "
        "place changes both.",
    )


def plan_extend_context(settings: ExtendContextSettings, progress: Progress = SILENT) -> Plan:
    """The plan of a model with the same bytes in every tensor and other positions in config.json.

    Adjusted base frequency (Xiong et al. 2023, arXiv 2309.16039, section 4.1): base 10,000 -> 500,000, then continued
    training on longer texts; here the base is whatever is asked for, and the scalings are those of transformers. Of
    a family that turns kinds of blocks in different ways only the blocks with full attention are changed. Raises
    UsageError on wrong options, SurgeonError on a model without rotary positions.
    """
    reference = model_ref.resolve(settings.model)
    if reference.adapter is not None:
        raise UsageError(
            "the context of a model with an adapter is not changed",
            settings.model,
            "fold it first: surgeon fold-adapter",
        )
    checkpoint = Checkpoint.open_model(reference.path)
    found = new_config(checkpoint, settings)
    for what, holds, detail in check_frequencies(checkpoint.config, found.config, str(reference.path)):
        if not holds:
            raise SurgeonError(f"{what}: this does not hold ({detail})", str(reference.path), "report this")
    for line in found.notes:
        progress.say(line)
    files = {} if settings.max_length is None else with_length(reference.path, settings.max_length)
    tensors = tuple(OutTensor(n, t.dtype, t.shape, Copy("model", n)) for n, t in checkpoint.tensors.items())
    plain = settings.model_dump(mode="json", exclude={"model", "out", "seed"}, exclude_defaults=True)
    return Plan(
        operation="extend-context",
        settings=plain,
        seed=settings.seed,
        inputs=(Input("model", reference.path, lambda: checkpoint.digest, reference.name),),
        tensors=tensors,
        config=found.config,
        lineage=Lineage(
            operation="extend-context",
            kind="surgery",
            settings=plain,
            seed=settings.seed,
            context=_recorded(checkpoint.config, found),
        ),
        files=files,
        carried={name: "model" for name in sidecars(reference.path) if name not in files},
        shards=kept_shards(checkpoint, tensors, {n: n for n in checkpoint.tensors}, link=True),
        link=settings.link,
    )


def new_config(checkpoint: Checkpoint, settings: ExtendContextSettings) -> Changed:
    """The configuration that the settings make of this checkpoint's; raises as plan_extend_context does."""
    return changed(checkpoint.config, wanted(settings), str(checkpoint.path / "config.json"))


def wanted(settings: ExtendContextSettings) -> Wanted:
    """What the settings ask for, of any model."""
    return Wanted(settings.rope_base, settings.max_length, settings.rope_scaling, settings.lower_base)


def _recorded(config: Mapping[str, Any], found: Changed) -> ContextChange:
    return ContextChange(
        length=found.after.length,
        rope={kind: dict(entry) for kind, entry in found.after.rope.items()},
        left=list(found.left),
        before=ConfigBefore(
            values={key: value for key, value in config.items() if found.config.get(key) != value},
            absent=[key for key in found.config if key not in config],
        ),
    )


def shown(plan: Plan) -> dict[str, Any]:
    """What the result and --dry-run add: the positions of the output."""
    context = plan.lineage.context
    assert context is not None
    return {"context": {"length": context.length, "rope": context.rope, "left": context.left}}
