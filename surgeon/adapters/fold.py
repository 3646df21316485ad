"""fold-adapter: MODEL+ADAPTER becomes a plain checkpoint, in float64 with one rounding."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from surgeon import model_ref
from surgeon.adapters.peft_format import LoraModule, lora_modules, open_adapter
from surgeon.adapters.targets import module_name
from surgeon.arch.family import Family, family_of
from surgeon.checkpoint.header import FLOATS
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.sidecars import sidecars
from surgeon.data.numbers import Count
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.output_dtype import dtype_code, fitted, with_dtype
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, Apply, Copy, Input, Plan
from surgeon.progress import SILENT, Progress


class FoldSettings(BaseModel):
    """The options of `surgeon fold-adapter`. model: MODEL+ADAPTER."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="MODEL+ADAPTER.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    dtype: str | None = Field(None, description="Stored type: float32, bfloat16, float16 [as the model's].")
    seed: int = Field(0, description="Seed of what is drawn.")
    shard_bytes: Count | None = Field(None, gt=0, description="The size that a shard does not exceed.")


def plan_fold(settings: FoldSettings, progress: Progress = SILENT) -> Plan:
    """W + s B A for every adapted module; all other tensors are copied.

    Raises UsageError without an adapter, SurgeonError on an adapter that is not plain LoRA or does not fit.
    """
    reference = model_ref.resolve(settings.model)
    if reference.adapter is None:
        raise UsageError("there is no adapter to fold", settings.model, "write MODEL+ADAPTER")
    checkpoint, adapter = Checkpoint.open(reference.path), open_adapter(reference.adapter.path)
    family = family_of(checkpoint)
    code = dtype_code(settings.dtype)
    modules = _on_tensors(checkpoint, family, adapter)
    inputs = {"model": checkpoint, "adapter": adapter}
    tensors = []
    for name, stored in checkpoint.tensors.items():
        module = modules.get(name)
        source: Copy | Apply = Copy("model", name)
        if module is not None:
            options = {"scaling": module.scaling, "transposed": family.transposed}
            source = Apply("kernel:add_lora", (source, Copy("adapter", module.a), Copy("adapter", module.b)), options)
        tensors.append(fitted(name, source, checkpoint, code if stored.dtype in FLOATS else None, inputs))
    plain = settings.model_dump(mode="json", exclude={"model", "out", "seed"}, exclude_defaults=True)
    return Plan(
        operation="fold-adapter",
        settings=plain,
        seed=settings.seed,
        inputs=(
            Input("model", reference.path, checkpoint.digest, reference.name),
            Input("adapter", reference.adapter.path, adapter.digest, reference.adapter.name),
        ),
        tensors=tuple(tensors),
        config=with_dtype(checkpoint.config, code),
        lineage=Lineage(
            operation="fold-adapter",
            kind="training",
            settings=plain,
            seed=settings.seed,
            adapter={"modules": len(modules), "scaling": sorted({m.scaling for m in modules.values()})},
        ),
        carried=dict.fromkeys(sidecars(reference.path), "model"),
        shard_bytes=settings.shard_bytes or DEFAULT_SHARD_BYTES,
    )


def _on_tensors(checkpoint: Checkpoint, family: Family, adapter: Checkpoint) -> dict[str, LoraModule]:
    """Tensor name -> the adapter's module, each checked to fit the model's matrix."""
    by_module = {module_name(family, name): name for name in checkpoint.tensors if name.endswith(".weight")}
    found = {}
    for module in lora_modules(adapter):
        name = by_module.get(module.module)
        if name is None:
            raise SurgeonError(
                f"the adapter is for the module {module.module!r}, which the model does not store as one matrix",
                str(adapter.path),
                f"give the model it was made for ({adapter.config.get('base_model_name_or_path')})",
            )
        if family.unit(name).block is None:
            raise SurgeonError(
                f"the adapter is on {name!r}, outside the blocks",
                str(adapter.path),
                "the head may be tied to the embedding: fold it with peft itself, merge_and_unload()",
            )
        shape = (adapter.tensors[module.b].shape[0], adapter.tensors[module.a].shape[1])
        stored = checkpoint.tensors[name].shape
        if shape != (stored[::-1] if family.transposed else stored):
            raise SurgeonError(
                f"the adapter's update of {module.module!r} is {list(shape)}, the model's matrix is {list(stored)}",
                str(adapter.path),
                "give the model that the adapter was made for",
            )
        found[name] = module
    return found
