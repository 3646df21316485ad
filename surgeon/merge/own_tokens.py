"""Models that were given tokens of their own beside the target's history: they meet it by the rows before that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from surgeon.checkpoint.digest import json_digest
from surgeon.checkpoint.lineage import Lineage
from surgeon.merge.ancestry import Member
from surgeon.merge.vocabulary import Met
from surgeon.ops.plan import runs
from surgeon.vocab.tokenizer_json import TokenizerFile


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
    met = Met(((old, 0),), runs(sorted(new)))
    return replace(member, steps=member.steps[:shared], met=met, twice=_twice(own, member, target.steps[shared:]))


def _twice(own: Sequence[Lineage], member: Member, others: Sequence[Lineage]) -> tuple[str, ...]:
    """Tokens that the member learned and the target did not take from it (--tokens-of): it had them already."""
    mine = json_digest(TokenizerFile.open(member.checkpoint.path).data)
    there: set[str] = set()
    for step in others:
        origin = ((step.rows and step.rows.learning) or {}).get("tokens_of", {})
        if step.rows is not None and origin.get("tokenizer") != mine:
            there |= {row.token for row in step.rows.new}
    return tuple(row.token for step in own if step.rows is not None for row in step.rows.new if row.token in there)
