"""What a PEFT folder holds, in plain data; with its model also how far it moves it."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from surgeon.adapters.base_check import base_digest
from surgeon.adapters.peft_format import PREFIX, open_adapter, scaling_of
from surgeon.adapters.start_file import FOLDER
from surgeon.checkpoint.header import DTYPE_BYTES
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.sidecars import SURGEON_DIR

# by PEFT's type: tensors of which one that is all zero leaves its module as it is, and those that act through it
_SILENT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "LORA": (("lora_B.weight", "lora_embedding_A"), ("lora_A.weight", "lora_embedding_B")),
    "ADALORA": (("lora_E",), ("lora_A", "lora_B", "ranknum")),
    "VERA": (("vera_lambda_b",), ("vera_lambda_d", "vera_A", "vera_B")),
}
_NOISE = 1e-6  # of the largest element: what a norm or a rotation in float32 leaves of a matrix that it does not move


def inspect_adapter(folder: Path) -> dict[str, Any]:
    """Kind, base, ranks, modules, parameters and lineage of an adapter of any kind."""
    adapter = open_adapter(folder)
    config, lineage = adapter.config, adapter.lineage
    known = {key: value for key, value in config.items() if value not in (None, False, [], {})}
    made_for = base_digest(folder)
    return {
        "kind": _kind(config),
        "peft_type": config["peft_type"],
        "base": config.get("base_model_name_or_path"),
        "base_digest": made_for[1] if made_for else None,
        "ranks": sorted({t.shape[0] for n, t in adapter.tensors.items() if n.endswith("lora_A.weight")}),
        "alpha": config.get("lora_alpha"),
        "rank_stabilized": bool(config.get("use_rslora")),
        "scaling": sorted({s for s in map(partial(scaling_of, adapter), adapter.tensors) if s is not None}),
        "modules": modules_of(adapter),
        "rows": _rows(config),
        "parameters": sum(t.nbytes // DTYPE_BYTES[t.dtype] for t in adapter.tensors.values()),
        "dtypes": sorted({t.dtype for t in adapter.tensors.values()}),
        "bytes": adapter.num_bytes,
        "changes_nothing": adapter_is_identity(folder)[0],
        "config": known,
        "lineage": None if lineage is None else lineage.model_dump(mode="json", exclude_defaults=True),
    }


def inspect_on_model(model: Path, folder: Path) -> dict[str, Any]:
    """inspect_adapter, and by role how large the update is beside the weights: |W' - W| / |W|, float64.

    Reads every tensor that the adapter changes. Raises SurgeonError where it does not fit the model.
    """
    import math

    from surgeon.adapters.apply import applied
    from surgeon.arch.family import family_of
    from surgeon.checkpoint.reader import read
    from surgeon.ops.evaluate import evaluate

    checkpoint = Checkpoint.open(model)
    family = family_of(checkpoint)
    held = applied(checkpoint, family, folder)
    opened = {"model": checkpoint} | {role: Checkpoint.open(path) for role, path in held.inputs.items()}
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    moved = []
    head = [(f"{family.declaration.head}.weight", family.embedding, held.head)] if held.head is not None else []
    for name, like, source in [*((name, name, source) for name, source in held.sources.items()), *head]:
        stored = checkpoint.tensors[like]
        before = read(stored).double()
        delta = evaluate(source, "F64", stored.shape, opened, name=name) - before
        sums[family.role(name)][0] += float(delta.square().sum())
        sums[family.role(name)][1] += float(before.square().sum())
        if float(delta.abs().max()) > _NOISE * float(before.abs().max()):
            moved.append(name)
    relative = {role: math.sqrt(a / b) if b else None for role, (a, b) in sorted(sums.items())}
    found = inspect_adapter(folder)
    if found["changes_nothing"] is None:
        found["changes_nothing"] = not moved
    return found | {"tensors": len(held.sources) + len(head), "moved": len(moved), "relative_update": relative}


def adapter_is_identity(folder: Path, model: Path | None = None) -> tuple[bool | None, str]:
    """Whether every update is exactly zero (a factor without a non-zero element), or what it was at its start where
    that is kept: the start of every kind computes what the model does. And a line that says so.

    Of anything else that an adapter holds (rows, saved modules, biases, norms of DoRA, other kinds) only its `model`
    tells whether it is as it was: None without one.
    """
    from surgeon.checkpoint.reader import read, to_bytes

    adapter = open_adapter(folder)
    start = folder / SURGEON_DIR / FOLDER
    if start.is_dir():
        first = open_adapter(start).tensors
        moved = [
            n for n, t in adapter.tensors.items() if n not in first or to_bytes(read(t)) != to_bytes(read(first[n]))
        ]
        if moved:
            return (
                False,
                f"{len(moved)} of {len(adapter.tensors)} tensors are not what they started as, first {moved[0]}",
            )
        return True, "every tensor is what it started as"
    ends, behind = _SILENT.get(adapter.config["peft_type"], ((), ()))
    silent = sorted(n for n in adapter.tensors if n.endswith(ends))
    others = sorted(n for n in adapter.tensors if not n.endswith((*ends, *behind)))
    changed = [n for n in silent if read(adapter.tensors[n]).any()]
    if changed:
        return False, f"{len(changed)} of {len(silent)} updates are not zero, first {changed[0]}"
    if not others:
        return True, f"all {len(silent)} factors B are zero"
    if model is None:
        return None, f"whether {others[0]} is as it was only the model tells"
    found = inspect_on_model(model, folder)
    if found["moved"]:
        return False, f"{found['moved']} of the {found['tensors']} tensors that it is for are not the model's"
    return True, f"{found['tensors']} tensors are the model's"


def modules_of(adapter: Checkpoint) -> list[str]:
    """The modules that an adapter has tensors for, sorted, without PEFT's names inside them."""
    marks = (".lora_", ".vera_", ".token_adapter", ".base_layer", ".osf_", ".hada_", ".lokr_", ".oft_", ".boft_")
    found = set()
    for name in adapter.tensors:
        rest = name.removeprefix(PREFIX)
        cut = min((rest.index(mark) for mark in marks if mark in rest), default=rest.rfind("."))
        if name.startswith(PREFIX):
            found.add(rest[:cut])
    return sorted(found)


def _kind(config: dict[str, Any]) -> str:
    init = config.get("init_lora_weights", True)
    if config.get("use_dora"):
        return "dora"
    return init if isinstance(init, str) and config["peft_type"] == "LORA" else str(config["peft_type"]).lower()


def _rows(config: dict[str, Any]) -> int:
    given = config.get("trainable_token_indices") or []
    return len(next(iter(given.values())) if isinstance(given, dict) else given)
