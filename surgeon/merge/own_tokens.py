"""Models that were given tokens of their own beside the target's history: they meet it by the rows before that."""

from __future__ import annotations

from dataclasses import replace

from surgeon.merge.ancestry import Member
from surgeon.merge.vocabulary import Met
from surgeon.ops.plan import runs


def beside(member: Member, target: Member) -> Member:
    """The member without surgery that the target does not share, if that gave it tokens and nothing else.

    Its old rows stand where they stood (extend-vocab appends, or takes padding), so they meet the target's by number;
    its own new rows have no place in the target but by their tokens, with the values that the target was given for
    them (extend-vocab --tokens-of). A member with other surgery is returned as it is, and refused where positions are
    checked.
    """
    shared = 0
    while shared < min(member.level, target.level) and member.signature[shared] == target.signature[shared]:
        shared += 1
    if shared == member.level:
        return member
    own = member.steps[shared:]
    if member.met is not None or any(step.operation != "extend-vocab" for step in own):
        return member
    held = own[0].rows
    assert held is not None
    new = {row.id for step in own if step.rows is not None for row in step.rows.new if row.id < held.old}
    old = runs([i for i in range(held.old) if i not in new])
    return replace(member, steps=member.steps[:shared], met=Met(((old, 0),), runs(sorted(new))))
