"""attach-adapter: a fresh PEFT folder for a model; with it attached the model computes exactly what it did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from surgeon import model_ref, registry
from surgeon.adapters.blocks import chosen_blocks
from surgeon.adapters.parts import Parts, Target
from surgeon.adapters.targets import chosen_targets, has_experts, peft_targets
from surgeon.arch.family import family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.errors import UsageError
from surgeon.ops.plan import Input, Plan
from surgeon.progress import SILENT, Progress


class AttachSettings(BaseModel):
    """The options of `surgeon attach-adapter`. targets: all-linear, or roles such as attention.q,mlp.down; blocks:
    all, new, or numbers such as 0-3,7; option: of the kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="A local folder, or org/name[@revision] of the hub.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    kind: str = Field("lora", description="`surgeon methods adapter`.")
    rank: int = Field(16, gt=0, description="Rank of the update.")
    alpha: float = Field(32.0, gt=0, allow_inf_nan=False, description="Scale of the update, before it is divided.")
    scaling: Literal["standard", "rank-stabilized"] = Field("standard", description="alpha/rank, or alpha/sqrt(rank).")
    targets: str = Field("all-linear", description="all-linear, or roles: attention.q,mlp.down.")
    blocks: str = Field("all", description="all, new, or numbers: 0-3,7.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Of the adapter, in training.")
    option: dict[str, Any] = Field(default_factory=dict, description="A keyword of the kind; repeatable.")
    seed: int = Field(0, description="Seed of what is drawn.")


def plan_attach(settings: AttachSettings, progress: Progress = SILENT) -> Plan:
    """The plan of adapter_config.json and adapter_model.safetensors, in PEFT's names.

    Raises UsageError on wrong options, SurgeonError on a model that cannot take the adapter.
    """
    reference = model_ref.resolve(settings.model)
    if reference.adapter is not None:
        raise UsageError(
            "the model has an adapter already", settings.model, "fold it first: surgeon fold-adapter MODEL+ADAPTER OUT"
        )
    checkpoint = Checkpoint.open(reference.path)
    family = family_of(checkpoint)
    where = str(checkpoint.path)
    blocks = chosen_blocks(settings.blocks, family.depth, checkpoint.lineage, where)
    targets = chosen_targets(checkpoint, family, settings.targets, blocks)
    if settings.targets == "all-linear" and has_experts(family):
        progress.say(
            "all-linear in a model with experts: attention only; experts, routers and dense MLPs get no adapter"
        )
    method = registry.get("adapter", settings.kind)
    common = {key: getattr(settings, key) for key in ("rank", "alpha", "scaling", "dropout")}
    given = {key: value for key, value in common.items() if key in method.options}
    parts: Parts = method.call({"targets": targets, "family": family, "seed": settings.seed}, given | settings.option)
    plain = settings.model_dump(mode="json", exclude={"model", "out", "seed"}, exclude_defaults=True)
    described = {"kind": settings.kind, "blocks": blocks, "modules": [t.module for t in targets]}
    return Plan(
        operation="attach-adapter",
        settings=plain,
        seed=settings.seed,
        inputs=(Input("model", reference.path, checkpoint.digest, reference.name),),
        tensors=tuple(sorted(parts.tensors, key=lambda t: t.name)),
        config=_peft_config(parts, settings.model, peft_targets(checkpoint, family, targets), family.transposed),
        lineage=Lineage(
            operation="attach-adapter",
            kind="training",
            settings=plain,
            seed=settings.seed,
            adapter=described | _plain(parts, targets),
        ),
        kind="adapter",
    )


def _peft_config(parts: Parts, model: str, modules: Mapping[str, Any], transposed: bool) -> dict[str, Any]:
    """adapter_config.json as PEFT itself writes it."""
    from peft import LoraConfig

    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=model,
        inference_mode=True,
        fan_in_fan_out=transposed,
        **modules,
        **parts.config,
    )
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return dict(sorted(plain.items()))


def _plain(parts: Parts, targets: list[Target]) -> dict[str, Any]:
    parameters = sum(t.nbytes // 4 for t in parts.tensors)
    return {"config": dict(parts.config), "roles": sorted({t.role for t in targets}), "parameters": parameters}
