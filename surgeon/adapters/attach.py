"""attach-adapter: a fresh PEFT folder for a model; with it attached the model computes what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from surgeon import model_ref, registry
from surgeon.adapters.blocks import chosen_blocks
from surgeon.adapters.kind import Kind
from surgeon.adapters.peft_format import written
from surgeon.adapters.presets import preset
from surgeon.adapters.refusals import check_choice
from surgeon.adapters.rows import row_indices
from surgeon.adapters.start_file import CONFIG as START_CONFIG
from surgeon.adapters.targets import Chosen, chosen_targets, has_experts, peft_targets
from surgeon.arch.family import Family, family_of
from surgeon.checkpoint.config_json import dump_json
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.data.numbers import Count
from surgeon.data.source import corpus_digest, parse_corpus
from surgeon.errors import SurgeonError, UsageError, did_you_mean
from surgeon.loading import Device
from surgeon.ops.plan import Input, OutTensor, Plan
from surgeon.progress import SILENT, Progress

# settings that kinds take as options of their own, where they have them
COMMON = ("rank", "alpha", "scaling", "dropout")


class AttachSettings(BaseModel):
    """The options of `surgeon attach-adapter`. preset: settings that belong together, below those that are given.
    targets: words with commas; blocks: all, new, or numbers such as 0-3,7; option: of the kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="A local folder, or org/name[@revision] of the hub.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    preset: str | None = Field(None, description="cpt-high-rank, new-tokens, new-blocks or moe.")
    kind: str = Field("lora", description="`surgeon methods adapter`.")
    rank: int = Field(16, gt=0, description="Rank of the update.")
    alpha: float = Field(32.0, gt=0, allow_inf_nan=False, description="Scale of the update, before it is divided.")
    scaling: Literal["standard", "rank-stabilized"] = Field("standard", description="alpha/rank, or alpha/sqrt(rank).")
    targets: str = Field("all-linear", description="all-linear, experts, embedding, head, or roles: attention.q.")
    blocks: str = Field("all", description="all, new, or numbers: 0-3,7.")
    new_rows: bool = Field(False, description="Train the rows of the vocabulary that the lineage calls new, too.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Of the adapter, in training.")
    option: dict[str, Any] = Field(default_factory=dict, description="A keyword of the kind; repeatable.")
    probe: str | None = Field(None, description="A corpus, for kinds that look at the model on a text.")
    probe_tokens: Count = Field(20_000, gt=0, description="Tokens of the probe, in whole documents.")
    device: Device = Field("auto", description="Where the model runs for kinds that need it.")
    seed: int = Field(0, ge=0, description="Seed of what is drawn.")

    def with_preset(self) -> AttachSettings:
        """These settings over those of the preset."""
        if self.preset is None:
            return self
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return AttachSettings.model_validate(preset(self.preset) | given)


def plan_attach(settings: AttachSettings, progress: Progress = SILENT) -> Plan:
    """The plan of adapter_config.json and adapter_model.safetensors, in PEFT's names.

    Raises UsageError on wrong options, SurgeonError on a model that cannot take the adapter and on what PEFT is known
    to get wrong.
    """
    settings = settings.with_preset()
    fitted = fit(settings)
    reference, checkpoint, family = fitted.reference, fitted.checkpoint, fitted.family
    kind, blocks, chosen, rows = fitted.kind, fitted.blocks, fitted.chosen, fitted.rows
    if has_experts(family) and not chosen.experts:
        progress.say("experts get no adapter: write --targets all-linear,experts to have one on them")
    tensors, config, attachments = _start(settings, checkpoint, family, kind, chosen, fitted.config, rows, progress)
    plain = _plain(settings)
    described: dict[str, Any] = {"kind": settings.kind, "blocks": blocks, "roles": chosen.roles}
    described |= {"modules": chosen.modules, "parameters": sum(t.nbytes // 4 for t in tensors)}
    return Plan(
        operation="attach-adapter",
        settings=plain,
        seed=settings.seed,
        inputs=(Input("model", reference.path, lambda: checkpoint.digest, reference.name),),
        tensors=tuple(sorted(tensors, key=lambda t: t.name)),
        config=config,
        lineage=Lineage(
            operation="attach-adapter",
            kind="training",
            settings=plain,
            seed=settings.seed,
            adapter=described | ({"rows": rows} if rows else {}),
        ),
        files={START_CONFIG: dump_json(config)} if attachments else {},
        attachments=attachments,
        kind="adapter",
    )


@dataclass(frozen=True)
class Fitted:
    """What is to be attached to which model. rows: module -> ids that are trained. config: PEFT's."""

    reference: model_ref.ModelRef
    checkpoint: Checkpoint
    family: Family
    kind: Kind
    blocks: list[int]
    chosen: Chosen
    rows: Mapping[str, list[int]]
    config: Any


def fit(settings: AttachSettings) -> Fitted:
    """The choices on a model, of whose weights nothing is read. Raises what plan_attach raises of them."""
    settings = settings.with_preset()
    reference = model_ref.resolve(settings.model)
    if reference.adapter is not None:
        raise UsageError(
            "the model has an adapter already", settings.model, "fold it first: surgeon fold-adapter MODEL+ADAPTER OUT"
        )
    checkpoint = Checkpoint.open(reference.path)
    family = family_of(checkpoint)
    blocks = chosen_blocks(settings.blocks, family.depth, checkpoint.lineage, str(checkpoint.path))
    chosen = chosen_targets(checkpoint, family, settings.targets, blocks)
    kind = chosen_kind(settings)
    rows = row_indices(checkpoint, family) if settings.new_rows else {}
    config = _peft_config(settings, kind, family, chosen, rows)
    check_choice(config, kind, family, chosen, str(checkpoint.path))
    return Fitted(reference, checkpoint, family, kind, blocks, chosen, rows, config)


def chosen_kind(settings: AttachSettings) -> Kind:
    """The chosen kind with its options; a shared setting that it does not take is refused where it was given."""
    method = registry.get("adapter", settings.kind)
    given: dict[str, Any] = {}
    for name in COMMON:
        if name in settings.model_fields_set:
            if name not in method.options:
                known = [f"--{n}" for n in COMMON if n in method.options] or ["none of these"]
                hint = did_you_mean(f"--{name}", known)
                raise UsageError(f"the kind {settings.kind} has no {name}", f"--{name}", hint)
            given[name] = getattr(settings, name)
    kind: Kind = method.call({"seed": settings.seed}, given | settings.option)
    if kind.reads_text and settings.probe is None:
        raise UsageError(f"the kind {settings.kind} looks at the model on a text", "--probe", "add --probe CORPUS")
    if settings.probe is not None and not kind.reads_text:
        raise UsageError(f"the kind {settings.kind} reads no text", "--probe", "leave --probe out")
    return kind


def _peft_config(
    settings: AttachSettings, kind: Kind, family: Family, chosen: Chosen, rows: Mapping[str, list[int]]
) -> Any:
    """The configuration object of PEFT."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    chosen_class = PEFT_TYPE_TO_CONFIG_MAPPING[kind.peft_type]
    fields = chosen_class.__dataclass_fields__
    more: dict[str, Any] = {"fan_in_fan_out": family.transposed} if "fan_in_fan_out" in fields else {}
    if rows:
        if "trainable_token_indices" not in fields:
            raise UsageError(f"{kind.peft_type} cannot train rows beside it", "--new-rows", "use --kind lora")
        more["trainable_token_indices"] = dict(rows)
    targets = peft_targets(family, chosen, fields)
    if "target_parameters" in targets and "target_parameters" not in fields:
        raise UsageError(f"{kind.peft_type} does not go on experts", "--targets", "use --kind lora for them")
    name, revision = model_ref.name_and_revision(settings.model)
    try:
        return chosen_class(
            task_type="CAUSAL_LM",
            base_model_name_or_path=name,
            revision=revision,
            inference_mode=True,
            **more,
            **targets,
            **kind.config,
        )
    except (TypeError, ValueError) as error:
        raise SurgeonError(
            f"PEFT refuses the configuration: {str(error).splitlines()[0]}", settings.model, "change the options"
        ) from error


def _start(
    settings: AttachSettings, checkpoint: Checkpoint, family: Family, kind: Kind, chosen: Chosen, config: Any,
    rows: Mapping[str, list[int]], progress: Progress,
) -> tuple[list[OutTensor], dict[str, Any], dict[str, bytes]]:  # fmt: skip
    """The tensors, adapter_config.json as PEFT writes it, and what the start has to be remembered by."""
    if kind.planned:
        from surgeon.adapters.planned_start import planned_start

        return planned_start(checkpoint, family, config, rows), written(config), {}
    from surgeon.adapters.model_start import model_start

    return model_start(settings, checkpoint, kind, chosen, config, progress)


def _plain(settings: AttachSettings) -> dict[str, Any]:
    plain = settings.model_dump(
        mode="json", exclude={"model", "out", "seed", "probe", "device"}, exclude_defaults=True
    )
    if settings.probe is not None:
        corpus = parse_corpus(settings.probe, weighted=False)
        plain["probe"] = {"name": corpus.name, "digest": corpus_digest(corpus)}
    return plain
