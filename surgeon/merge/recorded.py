"""Whether a lineage tells of the rows and blocks that a model has: what was changed elsewhere since is not in it."""

from __future__ import annotations

from pathlib import Path

from surgeon.checkpoint.lineage import Lineage
from surgeon.errors import SurgeonError
from surgeon.merge.ancestry import Member
from surgeon.ops.plan import Rows, source_from_json


def check_fits(member: Member, base: Member, path: Path) -> None:
    """Raises SurgeonError where the lineage in `path`, which was given for this model, is that of another one."""
    last = next((step for step in reversed(member.steps) if step.blocks is not None), None)
    told = base.checkpoint.tensor(base.family.embedding).shape[0]
    for step in member.steps:
        told = _rows_after(step, base, told)
    depth = len(last.blocks.source) if last is not None and last.blocks is not None else member.family.depth
    held = member.checkpoint.tensor(member.family.embedding).shape[0]
    if (depth, told) != (member.family.depth, held):
        raise SurgeonError(
            f"the lineage tells of {depth} blocks and {told} rows, {member.name} has {member.family.depth} and {held}",
            f"--lineage {path}",
            "give the surgeon.json of the model that it was trained from",
        )


def check_rows(member: Member, base: Member) -> None:
    """Raises SurgeonError where rows came or went that no step of the model's own lineage tells of."""
    told = base.checkpoint.tensor(base.family.embedding).shape[0]
    for step in member.steps:
        # what a merge adds begins behind the last token, which may be a row of padding
        if step.rows is not None and (
            step.rows.old != told if step.operation == "extend-vocab" else step.rows.old > told
        ):
            raise _changed(member, step.rows.old, told)
        told = _rows_after(step, base, told)
    held = member.checkpoint.tensor(member.family.embedding).shape[0]
    if held != told:
        raise _changed(member, held, told)


def _rows_after(step: Lineage, base: Member, told: int) -> int:
    """How many rows a model has after a step, of `told` before it."""
    if step.rows is not None:
        return step.rows.rows
    if base.family.embedding in step.initial:  # rows by token, of a model of which nothing else is known
        match source_from_json(step.initial[base.family.embedding]):
            case Rows(pieces):
                return sum(stop - start for piece in pieces for start, stop in piece.ids)
    return told


def _changed(member: Member, rows: int, told: int) -> SurgeonError:
    return SurgeonError(
        f"{member.name} has {rows} rows where its lineage tells of {told}: they were changed elsewhere",
        f"{member.checkpoint.path}/surgeon.json",
        "give the model as surgeon wrote it, or one without this surgeon.json: its rows meet by their tokens",
    )
