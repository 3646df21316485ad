"""Models of a merge whose context was extended since the base: the output has the positions of the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgeon.checkpoint.lineage import ContextChange, Lineage
from surgeon.errors import SurgeonError
from surgeon.merge.ancestry import Member


def context_since(lineage: Lineage | None, base: Member) -> ContextChange | None:
    """How the last extension of the context since `base` left the positions; None where there was none."""
    for step in lineage.chain() if lineage is not None else ():
        if step.context is not None:
            return step.context
        if step.parents and step.parents[0].digest == base.checkpoint.digest:
            break
    return None


def check_contexts(target: Member, members: Sequence[Member]) -> None:
    """The output has the target's positions, so no other model may have been given different ones since the base."""
    for member in members:
        if member.context is not None and _turning(member) != _turning(target):
            raise SurgeonError(
                f"the context of {member.name} was extended, and {target.name}, whose configuration the output has, "
                + ("to other positions" if target.context is not None else "was not"),
                str(member.checkpoint.path),
                f"bring {target.name} to the same positions first: surgeon extend-context",
            )


def _turning(member: Member) -> tuple[int | None, dict[str, dict[str, Any]]] | None:
    return None if member.context is None else (member.context.length, member.context.rope)
