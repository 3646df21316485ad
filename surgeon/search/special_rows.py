"""Special tokens whose rows come whole from one model: from which, at which weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from surgeon.merge.align import Alignment, Taken
from surgeon.merge.graded import Graded
from surgeon.merge.plan import Aligned
from surgeon.merge.special_tokens import special_tokens

Key = tuple[Taken, ...]


@dataclass
class SpecialRows:
    """Which rows a merge takes depends on which models count, and that on the signs of their weights (see
    surgeon.merge.special_tokens). `aligned`: where all count. merged: nothing is taken, whatever the weights."""

    aligned: Aligned
    merged: bool
    _known: dict[tuple[int, ...], Key] = field(default_factory=dict)

    def key(self, weights: Sequence[float]) -> Key:
        """The rows taken at these weights, of the models in the order of the merge; () stands for where all count."""
        if self.merged or not weights:
            return self.aligned.alignment.taken
        signs = tuple((w > 0) - (w < 0) for w in weights)
        if signs not in self._known:
            self._known[signs] = self._taken(signs)
        return self._known[signs]

    def alignment(self, key: Key) -> Alignment:
        return replace(self.aligned.alignment, taken=key)

    def _taken(self, signs: Sequence[int]) -> Key:
        alignment = self.aligned.alignment
        members = [entry.member for entry in self.aligned.members.added]
        weighted = [(member, Graded((float(s),), {})) for member, s in zip(members, signs, strict=True)]
        found = special_tokens(replace(alignment, taken=(), rows=None), weighted, self.aligned.inputs).taken
        # rows behind the target's last one stay: the live model has one shape
        held = {ids for taken in found for ids in taken.ids}
        last = alignment.target.checkpoint.tensor(alignment.family.embedding).shape[0]
        kept = [t for t in alignment.taken if t.ids[0][0] >= last and not held & set(t.ids)]
        return (*found, *kept)
