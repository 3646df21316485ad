"""A plan for people (rows of a table) and for programs (plain data), without carrying it out."""

from __future__ import annotations

from collections import Counter
from typing import Any

from surgeon.ops.plan import Apply, Copy, Plan, Rows, Source, Zeros


def describe(plan: Plan) -> dict[str, Any]:
    """Counts and bytes by how tensors come to be, the inputs, and the plan's digest."""
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in plan.tensors:
        kinds[_kind(tensor.source)] += 1
        sizes[_kind(tensor.source)] += tensor.nbytes
    blocks = plan.lineage.blocks
    rows = plan.lineage.rows
    return {
        "operation": plan.operation,
        "inputs": [{"role": i.role, "path": str(i.path), "digest": i.digest} for i in plan.inputs],
        "tensors": len(plan.tensors),
        "bytes": plan.nbytes,
        "by_source": {kind: {"tensors": kinds[kind], "bytes": sizes[kind]} for kind in sorted(kinds)},
        "blocks": None if blocks is None else {"source": blocks.source, "new": [n.block for n in blocks.new]},
        "rows": None if rows is None else {"old": rows.old, "new": len(rows.new), "rows": rows.rows},
        "files": sorted([*plan.files, *plan.binary, *plan.carried, *(f"surgeon/{n}" for n in plan.attachments)]),
        "settings": dict(plan.settings),
        "seed": plan.seed,
        "plan_digest": plan.digest,
    } | measured(plan)


def measured(plan: Plan) -> dict[str, Any]:
    """What planning found out about the inputs: the scores of blocks, with those that were copied; of a merge the
    tokens that one model gave, and whose the files are that are not the target's."""
    found: dict[str, Any] = {}
    merge = plan.lineage.merge or {}
    found |= {key: merge[key] for key in ("tokens_from", "files_from", "sequence") if merge.get(key)}
    blocks = plan.lineage.blocks
    if blocks is not None and blocks.probe is not None:
        copied = sorted({new.source for new in blocks.new})
        found["probe"] = blocks.probe.model_dump(mode="json") | {"copied": copied}
    return found


def tensor_rows(plan: Plan) -> list[tuple[str, str, str, str]]:
    """(name, dtype, shape, source) of every tensor, for a table."""
    return [(t.name, t.dtype, "x".join(map(str, t.shape)), phrase(t.source)) for t in plan.tensors]


def phrase(source: Source) -> str:
    """A source in a few words."""
    match source:
        case Copy(model, tensor):
            return f"copy of {model}:{tensor}"
        case Zeros():
            return "zeros"
        case Rows(pieces):
            return "; ".join(f"{p.count} rows: {phrase(p.source)}" for p in pieces)
        case Apply(method, inputs):
            return f"{method}({', '.join(phrase(i) for i in inputs)})"


def _kind(source: Source) -> str:
    match source:
        case Copy():
            return "copied"
        case Zeros():
            return "zeros"
        case Rows():
            return "rows"
        case Apply(method):
            return method
