"""Single rows of the vocabulary's matrices as they are in a model, and as they were at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from surgeon.checkpoint.index import Checkpoint
from surgeon.merge.align import Alignment
from surgeon.merge.ancestry import Member
from surgeon.merge.evaluation import evaluator
from surgeon.merge.pieces import restrict
from surgeon.ops.plan import Copy, Source, Zeros

if TYPE_CHECKING:
    from torch import Tensor


class RowValues:
    """Reads rows for `alignment`, one at a time; what is asked for are a few tokens. inputs: checkpoints by role."""

    def __init__(self, alignment: Alignment, inputs: Mapping[str, Checkpoint]) -> None:
        self.alignment, self._inputs = alignment, inputs
        self._caches: dict[str, dict[str, Tensor]] = {}

    @cached_property
    def _names(self) -> list[str]:
        """Of the target's tensors with a row a token."""
        tensors = self.alignment.target.checkpoint.tensors
        return [name for name in tensors if self.alignment.is_vocabulary(name)]

    def only_trained_by(self, member: Member, i: int, at: int, held: Sequence[Member]) -> bool:
        """Whether row `at` of the output is, in any of the matrices, something else in `member` (there: row i) than at
        first, and in no matrix of another model."""
        if not any(self._differs(name, member, i, at) for name in self._names):
            return False
        everyone = {other.digest: other for other in [*held, self.alignment.target]}
        others = [other for other in everyone.values() if other.digest != member.digest]
        return not any(self._moved(name, other, at) for name in self._names for other in others)

    def _differs(self, name: str, member: Member, i: int, at: int) -> bool:
        held = name if name in member.checkpoint.tensors or name in member.changed else self.alignment.family.embedding
        source = member.changed.get(held, Copy(member.role, held))
        return not self._equal(self._value(f"{member.role}/{held}", source, i), self._first(name, at))

    def _moved(self, name: str, other: Member, at: int) -> bool:
        """Whether the row is another one in this model than at first; not where it has none. A row of which only its
        value now is known counts as moved."""
        first = restrict(self.alignment.initial(name), ((at, at + 1),))[0].source
        target = self.alignment.target
        if isinstance(first, Copy) and first.model == target.role and target.digest != self.alignment.base.digest:
            return other.digest == target.digest
        values = self.alignment.values(other, name)
        if isinstance(values, Zeros) or isinstance(restrict(values, ((at, at + 1),))[0].source, Zeros):
            return False
        return not self._equal(self._value(f"values {other.digest}/{name}", values, at), self._first(name, at))

    def _first(self, name: str, at: int) -> Tensor:
        return self._value(f"first/{name}", self.alignment.initial(name), at)

    def _value(self, key: str, source: Source, row: int) -> Tensor:
        """Row `row` of a source of the shape of the target's embedding, in float64."""
        target = self.alignment.target.checkpoint
        shape = target.tensor(self.alignment.family.embedding).shape
        if key.endswith("bias"):
            shape = shape[:1]
        found = evaluator(self.alignment, self._inputs, [source]).value(
            source, shape, key, (row, row + 1), self._caches.setdefault(key, {})
        )
        return found.double()

    @staticmethod
    def _equal(one: Tensor, other: Tensor) -> bool:
        return bool((one == other).all())
