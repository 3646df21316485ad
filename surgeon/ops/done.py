"""What has been computed and written: the digests of its bytes, and what was measured on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from surgeon.checkpoint.tree_digest import LEAF
from surgeon.ops.delta_sums import DeltaSums


@dataclass(frozen=True)
class Done:
    """A part of a tensor. first: the number of its first piece of 16 MiB, leaves: the digests of its pieces (see
    tree_digest). sums: of the change that it is, models: the roles whose deltas the sums are of, in order."""

    name: str
    first: int
    leaves: tuple[str, ...]
    sums: DeltaSums | None = None
    models: tuple[str, ...] = ()

    def to_json(self) -> list[Any]:
        sums = None if self.sums is None else self.sums.to_json()
        return [self.name, self.first, list(self.leaves), sums, list(self.models)]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> Done:
        name, first, leaves, sums, models = value
        return cls(name, first, tuple(leaves), None if sums is None else DeltaSums.from_json(sums), tuple(models))


class LeafHasher:
    """Digests of the pieces of a tensor whose bytes come in order."""

    def __init__(self) -> None:
        self._leaves: list[str] = []
        self._current, self._filled = blake3(), 0

    def update(self, data: memoryview) -> None:
        data = data.cast("B")
        while data.nbytes:
            part = data[: LEAF - self._filled]
            self._current.update(part)
            self._filled += part.nbytes
            data = data[part.nbytes :]
            if self._filled == LEAF:
                self._close()

    def leaves(self) -> tuple[str, ...]:
        if self._filled:
            self._close()
        return tuple(self._leaves)

    def _close(self) -> None:
        self._leaves.append(self._current.hexdigest())
        self._current, self._filled = blake3(), 0


def computed_digests(done: Iterable[Done], sizes: dict[str, int]) -> dict[str, str]:
    """Tensor -> its digest, of those of which every piece is known. sizes: bytes of the tensors."""
    found: dict[str, dict[int, str]] = {}
    for part in done:
        found.setdefault(part.name, {}).update(enumerate(part.leaves, part.first))
    digests = {}
    for name, leaves in found.items():
        count = -(-sizes[name] // LEAF)
        if len(leaves) == count:
            digests[name] = blake3(b"".join(bytes.fromhex(leaves[i]) for i in range(count))).hexdigest()
    return digests


def by_tensor(done: Iterable[Done]) -> dict[str, tuple[DeltaSums, tuple[str, ...]]]:
    """The sums of every tensor, its parts added in order, by name; in the order of the names."""
    found: dict[str, tuple[DeltaSums, tuple[str, ...]]] = {}
    for part in sorted(done, key=lambda d: (d.name, d.first)):
        if part.sums is None:
            continue
        if part.name not in found:
            found[part.name] = (DeltaSums(part.sums.num), part.models)
        found[part.name][0].add(part.sums)
    return found
