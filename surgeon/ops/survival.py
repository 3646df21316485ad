"""What of a change the rounding to the stored type lets through, measured while it is written."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from surgeon import registry
from surgeon.ops.plan import Apply, Source


class Change(NamedTuple):
    """exact: the source of the changed values before rounding; base: of what they were before."""

    exact: Apply
    base: Source


def change_of(source: Source) -> Change | None:
    """Where a source changes a tensor (its kernel says which input: CHANGES), also inside a rounding at random."""
    if not isinstance(source, Apply):
        return None
    kind, _, name = source.method.partition(":")
    if name == "stochastic":
        return change_of(source.inputs[0])
    which = registry.get(kind, name).trait("CHANGES", None)
    which = which(source.options) if callable(which) else which
    return None if which is None else Change(source, source.inputs[which])


@dataclass
class _Sums:
    elements: int = 0
    meant: int = 0  # elements that the exact change moves
    unmoved: int = 0  # of those, how many are what they were after rounding
    dd: float = 0.0
    dk: float = 0.0
    ee: float = 0.0

    def add(self, other: _Sums) -> None:
        for name in ("elements", "meant", "unmoved", "dd", "dk", "ee"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def report(self) -> dict[str, Any]:
        return {
            "elements": self.elements,
            "changed": self.meant,
            "unmoved": self.unmoved / self.meant if self.meant else 0.0,
            "kept": self.dk / self.dd if self.dd else 1.0,
            "relative_error": (self.ee / self.dd) ** 0.5 if self.dd else 0.0,
        }


@dataclass
class Survival:
    """Sums over tensors, for all of them and by part (names with their numbers left out); safe from any thread."""

    _parts: dict[str, dict[str, list[_Sums]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, base: Tensor, exact: Tensor, rounded: Tensor) -> None:
        """A tensor or some of its rows: as it was, as it should be (float64), as it is stored. Differences are taken
        in float64, or in float32 where those of stored values are nearly exact; sums in float32 by piece.
        """
        import torch

        before = base.float() if base.dtype != torch.float64 else base
        delta = (exact - before).float().flatten()
        kept = (rounded.to(before.dtype) - before).float().flatten()
        moved, stayed = delta.bool(), ~kept.bool()
        off = kept - delta
        found = _Sums(
            delta.numel(),
            int(torch.count_nonzero(moved)),
            int(torch.count_nonzero(moved & stayed)),
            float(delta @ delta),
            float(delta @ kept),
            float(off @ off),
        )
        with self._lock:
            part = re.sub(r"\.\d+(?=\.)", ".{n}", name)
            self._parts.setdefault(part, {}).setdefault(name, []).append(found)

    def report(self) -> dict[str, Any]:
        """{"elements", "changed", "unmoved", "kept", "relative_error", "parts": {part: the same}}; empty where nothing
        was changed. changed: elements that the exact change moves; unmoved: the share of them that rounding leaves
        where they were; kept: <delta, stored delta> / |delta|^2; relative_error: |stored delta - delta| / |delta|."""
        if not self._parts:
            return {}
        total, parts = _Sums(), {}
        for part in sorted(self._parts):
            here = _Sums()
            for name in sorted(self._parts[part]):
                for sums in sorted(self._parts[part][name], key=lambda s: (s.elements, s.dd, s.dk, s.ee)):
                    here.add(sums)
            parts[part] = here.report()
            total.add(here)
        return total.report() | {"parts": parts}
