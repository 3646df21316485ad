"""Which tensors of a merge are merged, and as what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from surgeon.checkpoint.header import FLOATS
from surgeon.merge.ancestry import Member
from surgeon.ops.plan import Apply, Source


def is_merged(name: str, members: Sequence[Member]) -> bool:
    """Whether the tensor of the first of the models is merged: floating point in all, and no buffer, which models do
    not read or compute with as it is."""
    held = [m.checkpoint.tensors[name] for m in members if name in m.checkpoint.tensors]
    return all(t.dtype in FLOATS for t in held) and members[0].family.role(name) != "buffer"


def one_matrix(name: str, member: Member) -> str:
    """The name by which the tensor is merged: a head that is the embedding, stored a second time, is that one matrix
    and has its weights, options and draws."""
    head = f"{member.family.declaration.head}.weight"
    return member.family.embedding if name == head and member.is_tied() else name


def drawn_as(matrix: str, name: str, source: Source) -> Source:
    """The source of the matrix for the tensor `name`, with the draws of the matrix; it is measured once."""
    if matrix == name or not isinstance(source, Apply):
        return source
    kept = {key: value for key, value in source.options.items() if key != "models"}
    return replace(source, options=kept | {"drawn_as": matrix})
