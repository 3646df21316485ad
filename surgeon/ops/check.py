"""What must hold before the first byte is written: names, inputs, shapes, dtypes, rows, room, a valid config."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from surgeon.arch.declared import check_declared, is_declared
from surgeon.checkpoint.commit import check_apart
from surgeon.checkpoint.header import StoredTensor
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.ops.layout import layout_of
from surgeon.ops.memory import memory_budget
from surgeon.ops.plain import is_plain
from surgeon.ops.plan import Apply, Copy, OutTensor, Plan, Rows, Source, Zeros
from surgeon.ops.weighted_sum import weighted_sum
from surgeon.ops.working_bytes import needed_bytes


def check(plan: Plan, out: Path | None = None, memory: int | None = None) -> None:
    """Raise SurgeonError on the first thing that would go wrong. memory: bytes that computed tensors may take."""
    if out is not None:
        check_apart(out, [i.path for i in plan.inputs])
    inputs = {i.role: Checkpoint.open(i.path) for i in plan.inputs}
    for name in (*plan.carried, *plan.files, *plan.binary, *plan.attachments):
        if Path(name).is_absolute() or ".." in Path(name).parts:  # a saved plan may come from anywhere
            raise SurgeonError("the plan names a file outside the checkpoint", name, "do not apply this plan")
    seen: dict[str, None] = {}
    for tensor in plan.tensors:
        if tensor.name in seen:
            raise SurgeonError(f"the plan writes {tensor.name!r} twice", plan.operation, "report this")
        seen[tensor.name] = None
        _check_source(tensor.source, tensor, inputs, exact=True)
    for name, role in plan.carried.items():
        if not (inputs[role].path / name).is_file():
            raise SurgeonError(f"the file {name} is gone", str(inputs[role].path), "restore it and plan again")
    if plan.kind == "model":
        _check_config(plan, inputs)
    if plan.shards and sorted(n for names in plan.shards for n in names) != sorted(seen):
        raise SurgeonError("the shards of the plan do not hold each tensor once", plan.operation, "report this")
    if out is not None:
        _check_room(plan, out, inputs)
        _check_memory(plan, inputs, memory)


def _check_config(plan: Plan, inputs: Mapping[str, Checkpoint]) -> None:
    """The tensors are those of the model that config.json describes. A plan that only puts tensors of an input in
    another place, or gives the tensors of an input other values, is checked by the declaration where its family is
    declared; any other one by building the model without memory."""
    shapes = {t.name: t.shape for t in plan.tensors}
    only_placed = all(isinstance(t.source, Copy) or is_plain(t) for t in plan.tensors)
    other_values = any(shapes == {n: t.shape for n, t in held.tensors.items()} for held in inputs.values())
    if (only_placed or other_values) and is_declared(plan.config):
        check_declared(plan.config, shapes)
        return
    from surgeon.arch.meta import check_config, check_multimodal

    several = "text_config" in plan.config or "vision_config" in plan.config
    (check_multimodal if several else check_config)(dict(plan.config), shapes)


def check_inputs(plan: Plan) -> None:
    """The inputs of a saved plan are still the ones it was made for."""
    for entry in plan.inputs:
        if Checkpoint.open(entry.path).digest != entry.digest:
            raise SurgeonError(
                f"the input {entry.role!r} is not the one the plan was made for",
                str(entry.path),
                "plan it again",
            )


def _check_source(
    source: Source, out: OutTensor, inputs: Mapping[str, Checkpoint], exact: bool, whole: bool = True
) -> None:
    """exact: bytes go out as they are. whole: the source has the rows of the output (a kernel's input may not)."""
    match source:
        case Copy(model, tensor, shift):
            stored = _stored(inputs, model, tensor)
            if exact and shift:
                raise SurgeonError(f"{out.name!r} is copied from other rows as a whole", tensor, "report this")
            if exact and (stored.dtype != out.dtype or stored.shape != out.shape):
                raise _mismatch(out, stored)
            if whole and not exact and stored.shape[:1] != out.shape[:1]:  # rows behind its end are another tensor's
                raise _mismatch(out, stored)
        case Zeros():
            pass
        case Rows(pieces):
            covered = sorted(run for piece in pieces for run in piece.ids)
            position = 0
            for start, stop in covered:
                if start != position or stop <= start:
                    raise SurgeonError(
                        f"rows of {out.name!r} are not covered exactly once", f"row {position}", "report this"
                    )
                position = stop
            if not out.shape or (whole and position != out.shape[0]):
                raise SurgeonError(
                    f"rows of {out.name!r} are not covered exactly once", f"row {position}", "report this"
                )
            for piece in pieces:
                if isinstance(piece.source, Copy):
                    stored = _stored(inputs, piece.source.model, piece.source.tensor)
                    last = max(stop for _, stop in piece.ids) + piece.source.shift
                    first = min(start for start, _ in piece.ids) + piece.source.shift
                    same = not exact or stored.dtype == out.dtype
                    if not same or stored.shape[1:] != out.shape[1:] or first < 0 or last > stored.shape[0]:
                        raise _mismatch(out, stored)
                else:
                    _check_source(piece.source, out, inputs, exact=False, whole=False)
        case Apply(method, sources):
            if is_plain(out):
                return
            from surgeon import registry
            from surgeon.ops.rowwise import kind_and_name, rowwise, takes_rows

            found = registry.get(*kind_and_name(method))
            whole = whole and rowwise(source)
            for inner, at in zip(sources, takes_rows(found, len(sources)), strict=True):
                _check_source(inner, out, inputs, exact=False, whole=whole and at)


def _stored(inputs: Mapping[str, Checkpoint], model: str, tensor: str) -> StoredTensor:
    if model not in inputs:
        raise SurgeonError(f"the plan reads {model!r}, which is not an input", tensor, "report this")
    return inputs[model].tensor(tensor)


def _mismatch(out: OutTensor, stored: StoredTensor) -> SurgeonError:
    return SurgeonError(
        f"{out.name!r} would be {out.dtype} {list(out.shape)}, its source {stored.name!r} is "
        f"{stored.dtype} {list(stored.shape)}",
        str(stored.path),
        "the checkpoint's tensors do not fit its config.json: restore both from one revision",
    )


def _check_room(plan: Plan, out: Path, inputs: Mapping[str, Checkpoint]) -> None:
    folder = out.absolute().parent
    while not folder.exists():
        folder = folder.parent
    layout = layout_of(plan, inputs)
    linked = sum(path.stat().st_size for path in layout.whole.values()) if plan.link else 0
    need = layout.num_bytes - linked + (1 << 20)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise SurgeonError(
            f"the output needs {need:,} bytes and the disk has {free:,} left", str(folder), "free some space"
        )


def _check_memory(plan: Plan, inputs: Mapping[str, Checkpoint], memory: int | None) -> None:
    """What is computed at one time fits into the memory, beside the buffers of weighted sums, which are kept."""
    computed: dict[str, int] = {}
    buffers: dict[str, int] = {}
    for tensor in plan.tensors:
        if not isinstance(tensor.source, Copy) and not is_plain(tensor):
            rows, kept = needed_bytes(tensor, inputs, weighted_sum(tensor, inputs))
            computed |= {tensor.name: rows} if rows else {}
            buffers |= {tensor.name: kept} if kept else {}
    if not computed and not buffers:
        return
    need = max(computed.values(), default=0) + max(buffers.values(), default=0)
    most = max(computed or buffers, key=lambda name: computed.get(name, 0) or buffers.get(name, 0))
    room = 2 * memory_budget() if memory is None else memory
    if need > room:
        raise SurgeonError(
            f"computing {most!r} needs about {need:,} bytes of memory",
            f"{room:,} bytes are available" if memory is None else f"--memory {memory:,}",
            "use a machine with more memory" if memory is None else _more(plan, most, need),
        )


def _more(plan: Plan, largest: str, need: int) -> str:
    from surgeon.ops.rowwise import rowwise

    source = next(t.source for t in plan.tensors if t.name == largest)
    enough = f"give --memory {-(-need // 10**6)}M or more"
    return enough if rowwise(source) else f"{enough}, or a method that works by rows"
