"""A training run ready to start: settings resolved, inputs read, model loaded, trainable set chosen."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from surgeon.adapters.base_check import check_base
from surgeon.adapters.load import put_on
from surgeon.checkpoint.digest import json_digest
from surgeon.checkpoint.index import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Checkpoint
from surgeon.data.items import Item, take
from surgeon.data.items import prepare as score_items
from surgeon.data.tokens import Tokens
from surgeon.errors import SurgeonError
from surgeon.loading import (
    is_encoder,
    load_model,
    load_skeleton,
    load_tokenizer,
    resolve_device,
    resolve_dtype,
)
from surgeon.model_ref import ModelRef, resolve
from surgeon.progress import SILENT, Progress
from surgeon.registry import Method
from surgeon.train import attention, blocks, corpora
from surgeon.train.block_cosine import block_cosines
from surgeon.train.by_shapes import rows_by_shapes, select_by_shapes
from surgeon.train.early import check_words, evals
from surgeon.train.encoders import check_encoder, check_encoder_data
from surgeon.train.experts import under_autocast
from surgeon.train.footprint import memory_bytes
from surgeon.train.naming import named
from surgeon.train.other_teacher import OtherModel, check_logits, load_teacher, named_teacher
from surgeon.train.outline import Outline, check_fits
from surgeon.train.parallel import SOLO, World
from surgeon.train.probes import by_digest, probes
from surgeon.train.settings import CptSettings, methods
from surgeon.train.shape import Shape
from surgeon.train.teacher import Teacher
from surgeon.train.trainable import Trainable, check_trained_adapter, select


@dataclass(frozen=True)
class Job:
    """Everything the loop needs. `chosen`: methods by kind with their options; `record`: what decides the result."""

    settings: CptSettings
    ref: ModelRef
    checkpoint: Checkpoint
    adapter: Path | None
    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    shape: Shape
    data: corpora.Data
    trainable: Trainable
    mode: attention.Mode
    chosen: dict[str, list[tuple[Method, dict[str, Any]]]]
    evals: tuple[tuple[str, tuple[Item, ...]], ...]
    record: dict[str, Any]
    world: World = SOLO
    other: OtherModel | None = None
    teacher: Teacher | None = None
    texts: dict[str, Tokens] = field(default_factory=dict)  # see surgeon.train.outline; empty when methods are made

    @property
    def digest(self) -> str:
        return json_digest(self.record)

    @property
    def inputs(self) -> dict[str, Any]:
        """What the run reads, by digests."""
        keys = ("model", "adapter", "data", "replay", "probes", "teacher")
        return {key: self.record[key] for key in keys if self.record.get(key) is not None}

    @property
    def compiles(self) -> bool:
        """Whether blocks, and the loss in the head, are compiled: as the settings say, else on a GPU."""
        return self.device.type == "cuda" if self.settings.compile is None else self.settings.compile

    def autocast(self) -> AbstractContextManager[Any]:
        """The type of the arithmetic; master weights stay float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def factor(self, step: int) -> float:
        """The schedule at update `step`, from 1 to the last."""
        method, options = self.chosen["schedule"][0]
        return float(method.call({"step": step, "total": self.shape.steps}, options))

    def optimizer(self) -> torch.optim.Optimizer:
        method, options = self.chosen["optimizer"][0]
        # a method that gives every tensor a rate of its own says so: BY_TENSOR = True
        by_tensor = any(m.trait("BY_TENSOR", False) for held in self.chosen.values() for m, _ in held)
        groups = self.trainable.groups(self.settings.lr, self.settings.weight_decay, by_tensor=by_tensor)
        supply = {"groups": groups, "betas": self.settings.betas, "model": self.model, "seed": self.settings.seed}
        supply["block_cosines"] = partial(block_cosines, self)
        result: torch.optim.Optimizer = named(method, method.call, supply, options)
        return result


def prepare(
    settings: CptSettings, progress: Progress = SILENT, *, dry: bool = False,
    world: World = SOLO, place: torch.device | None = None,
) -> Job:  # fmt: skip
    """Check settings, read inputs, load the model. `dry`: to describe a run, so on the CPU and without a probe.
    world, place: the processes that share the run, and this one's device (see world_of)."""
    chosen = methods(settings)
    check_words(settings)
    ref = resolve(settings.model)
    checkpoint = Checkpoint.open_model(ref.path)
    adapter = ref.adapter.path if ref.adapter else None
    check_trained_adapter(settings.train, adapter)
    device = place or resolve_device(settings.device)
    encoder = is_encoder(ref.path)
    check_encoder(settings, chosen, encoder)
    tokenizer = load_tokenizer(ref.path, settings.trust_remote_code)
    code = settings.trust_remote_code
    # what is refused without the weights is refused before they are read: of a large model that takes minutes
    by_shapes = select_by_shapes(settings, ref.path, adapter, checkpoint.lineage)
    outline = by_shapes.skeleton
    other = named_teacher(settings, chosen["objective"][0][0], tokenizer)
    taught = load_skeleton(other.ref.path, code) if other else None
    if other is not None:
        check_logits(other, taught, outline)
    shape = rows_by_shapes(settings, outline, device)
    schedule, given = chosen["schedule"][0]
    schedule.call({"step": shape.steps, "total": shape.steps}, given)  # one that does not fit the run
    vocab = outline.get_input_embeddings().weight.shape[0]
    objective, options = chosen["objective"][0]
    scored = objective.trait("SCORES")  # the option that names the field of every record that holds its score
    data = corpora.read(
        settings, tokenizer, shape, vocab, progress, "whole" if encoder else "split",
        options[scored] if scored else None,
    )  # fmt: skip
    if encoder:
        check_encoder_data(settings, data)
    texts: dict[str, Tokens] = {}

    def check(model: Any, trainable: Trainable) -> None:
        known = Outline(
            settings, model, trainable, tokenizer, shape.steps, shape.seq_len, shape.micro_batch, data.mixture.batch,
            data.replays, taught, adapter, texts,
        )  # fmt: skip
        check_fits(known, chosen)

    if by_shapes.trainable is not None:
        check(by_shapes.model, by_shapes.trainable)
    if adapter is not None:
        check_base(adapter, checkpoint)
    # what is divided among processes goes to their devices in parts
    whole = torch.device("cpu") if dry or world.size > 1 else device
    model = load_model(ref.path, device=whole, dtype=torch.float32, trust_remote_code=code, encoders=True)
    if adapter is not None:
        model = put_on(model, ref.path, adapter, trainable=True)
    trainable = select(model, settings.train, checkpoint.lineage, settings.group)
    if by_shapes.trainable is None:  # of a kind that is put on a whole model only
        check(model, trainable)
    dtype = resolve_dtype(settings.dtype, device)
    record = by_digest(_record(settings, shape, checkpoint, adapter, data), probes(chosen))
    record["dtype"] = str(dtype).removeprefix("torch.")  # "auto" is another type on another device
    record |= {"teacher": other.checkpoint.digest} if other else {}
    evals = tuple(_evals(settings, tokenizer))
    job = Job(
        settings, ref, checkpoint, adapter, model, tokenizer, device, dtype, shape, data, trainable,
        "padded" if encoder else "rows", chosen, evals, record, world, other, texts=texts,
    )  # fmt: skip
    return job if dry else _ready(job)


def _ready(job: Job) -> Job:
    """The model as it runs: attention that keeps documents apart, experts in the type of the arithmetic, blocks
    checkpointed, sharded and compiled."""
    if job.mode == "padded":
        mode = attention.choose_padded(job.model)
    else:
        mode = attention.choose(job.model, job.shape.seq_len, job.device, job.dtype)
    if job.dtype != torch.float32:
        under_autocast(job.model)
    blocks.checkpoint(job.model, job.trainable, job.settings.checkpointing, job.device, memory_bytes(job))
    if job.world.size > 1:
        job.world.shard(job.model, blocks.blocks_of(job.model), job.dtype)
        named = dict(job.model.named_parameters())
        sharded = {name: named[name] for name in job.trainable.parameters}
        job = replace(job, trainable=replace(job.trainable, parameters=sharded))
    if job.compiles:
        blocks.compile_blocks(job.model)
    if job.other is not None:
        code = job.settings.trust_remote_code
        job = replace(
            job, teacher=load_teacher(job.other, job.model, mode, job.shape.seq_len, job.device, job.dtype, code)
        )
    return replace(job, mode=mode)


def _evals(settings: CptSettings, tokenizer: Any) -> list[tuple[str, tuple[Item, ...]]]:
    found: list[tuple[str, tuple[Item, ...]]] = []
    for corpus in evals(settings):
        held = take(corpus, tokenizer, settings.eval_tokens)
        found.append((corpus.name, tuple(score_items(held, tokenizer))))
    return found


def _record(
    settings: CptSettings, shape: Shape, checkpoint: Checkpoint, adapter: Path | None, data: corpora.Data
) -> dict[str, Any]:
    """What decides the result: settings with paths replaced by digests; the same wherever the files lie."""
    record = settings.deciding() | {
        "model": checkpoint.digest,
        "seq_len": shape.seq_len,
        "batch_tokens": shape.rows * shape.seq_len,
        "micro_batch": shape.micro_batch,
    }
    for key, replay in (("data", False), ("replay", True)):
        sources = [s for s in data.sources if s.replay is replay]
        record[key] = [{"name": s.corpus.name, "weight": s.corpus.weight, "digest": s.digest} for s in sources]
    if adapter is not None:
        record["adapter"] = _adapter_digest(adapter)
    return record


def _adapter_digest(adapter: Path) -> str:
    from surgeon.checkpoint.digest import file_digests

    names = [ADAPTER_CONFIG, ADAPTER_WEIGHTS]
    for name in names:
        if not (adapter / name).is_file():
            raise SurgeonError(f"there is no {name}", str(adapter), "give a PEFT folder in safetensors")
    return json_digest(dict(zip(names, file_digests(adapter / n for n in names), strict=True)))
