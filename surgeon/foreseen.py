"""A stand-in for the model that a stage will write: its config.json, headers and lineage, with no bytes behind them.

Operations plan from these alone, so a later stage's numbers of blocks, roles and names are checked on it before the
first stage begins. Its weights are holes in a file: they take no room, and nobody is to read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from surgeon.arch.family import Family
from surgeon.checkpoint.config_json import dump_json
from surgeon.checkpoint.header import encode_header, num_bytes
from surgeon.checkpoint.index import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, SINGLE, Checkpoint
from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage, NewRow, Parent, RowMap, dump_lineage
from surgeon.checkpoint.sidecars import sidecars
from surgeon.ops.plan import Plan

Shapes = Iterable[tuple[str, str, tuple[int, ...]]]  # name, safetensors code, shape

UNKNOWN = "not known yet"


def stand_in_of(plan: Plan, folder: Path) -> None:
    """What the plan would write to `folder`, but for bytes of weights and attachments."""
    inputs = {i.role: i for i in plan.inputs}
    adapter = plan.kind == "adapter"
    _write(folder, plan.config, [(t.name, t.dtype, t.shape) for t in plan.tensors], adapter)
    for name, role in plan.carried.items():
        _link(inputs[role].path, folder, name)
    for name, text in plan.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    first = Checkpoint.open(plan.inputs[0].path)
    # an adapter is for the model that is not there: without a parent it is judged by shapes alone
    _put_lineage(folder, plan.lineage, None if adapter else first)


def trained(checkpoint: Checkpoint, folder: Path) -> None:
    """The same model, or the same adapter, after a training."""
    adapter = checkpoint.shards[0].name == ADAPTER_WEIGHTS
    _write(folder, checkpoint.config, [(t.name, t.dtype, t.shape) for t in checkpoint.tensors.values()], adapter)
    for name in sidecars(checkpoint.path):
        _link(checkpoint.path, folder, name)
    _put_lineage(folder, Lineage(operation="cpt", kind="training"), None if adapter else checkpoint)


def with_tokens(
    checkpoint: Checkpoint, folder: Path, family: Family, new: Iterable[int], rows: int, head: str | None
) -> None:
    """The model with rows for some tokens, of which nobody knows what they are. head: the output matrix where it gets
    one. The tokenizer stays the old one: see `extended`."""
    stored = {t.name: (t.dtype, t.shape) for t in checkpoint.tensors.values()}
    if head is not None:
        stored[head] = stored[family.embedding]
    vocabulary = {family.embedding, family.head, head}
    shapes = [(n, d, (rows, *s[1:]) if n in vocabulary else s) for n, (d, s) in stored.items()]
    config = checkpoint.config | {"vocab_size": rows} | ({} if head is None else {"tie_word_embeddings": False})
    _write(folder, config, shapes, adapter=False)
    for name in sidecars(checkpoint.path):
        _link(checkpoint.path, folder, name)
    entries = [NewRow(id=i, token="", pieces=[]) for i in new]
    old = checkpoint.tensor(family.embedding).shape[0]
    row_map = RowMap(old=old, rows=rows, new=entries, method=UNKNOWN, method_output=UNKNOWN)
    _put_lineage(folder, Lineage(operation="extend-vocab", kind="surgery", rows=row_map), checkpoint)


def extended(checkpoint: Checkpoint) -> bool:
    """Whether a stage that is still to be done gave the model tokens."""
    steps = checkpoint.lineage.chain() if checkpoint.lineage is not None else ()
    return any(step.rows is not None and step.rows.method == UNKNOWN for step in steps)


def _write(folder: Path, config: Mapping[str, Any], shapes: Shapes, adapter: bool) -> None:
    folder.mkdir(parents=True)
    (folder / (ADAPTER_CONFIG if adapter else CONFIG)).write_text(dump_json(dict(config)), encoding="utf-8")
    entries = list(shapes)
    header = encode_header(entries, {"format": "pt"})
    with (folder / (ADAPTER_WEIGHTS if adapter else SINGLE)).open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(num_bytes(dtype, shape) for _, dtype, shape in entries))


def _link(source: Path, folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to((source / name).resolve())


def _put_lineage(folder: Path, lineage: Lineage, of: Checkpoint | None) -> None:
    """The digest of the parent is left out: it is that of weights."""
    parents = [] if of is None else [Parent(role="model", name=of.path.name, path="", digest="", lineage=of.lineage)]
    text = dump_lineage(lineage.model_copy(update={"parents": parents}))
    (folder / LINEAGE_FILE).write_text(text, encoding="utf-8")
