"""What of a change the rounding to the stored type lets through, measured while it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from surgeon import registry
from surgeon.ops.delta_sums import DeltaSums
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


def survival(tensors: Mapping[str, DeltaSums]) -> dict[str, Any]:
    """{"elements", "skipped", "changed", "unmoved", "kept", "relative_error", "parts": {part: the same}}; empty where
    nothing was changed. skipped: elements that were not looked at (of large tensors some blocks are, and count for all
    of the tensor in what follows). changed: elements that the exact change moves; unmoved: the share of them that
    rounding leaves where they were; kept: <delta, stored delta> / |delta|^2; relative_error: |stored delta - delta| /
    |delta|. parts: names with their numbers left out."""
    if not tensors:
        return {}
    total = DeltaSums(0)
    parts: dict[str, DeltaSums] = {}
    for name in sorted(tensors):
        own = _of_change(tensors[name].whole())
        total.add(own)
        parts.setdefault(re.sub(r"\.\d+(?=\.)", ".{n}", name), DeltaSums(0)).add(own)
    return _report(total) | {"parts": {part: _report(sums) for part, sums in sorted(parts.items())}}


def _of_change(sums: DeltaSums) -> DeltaSums:
    """Without the products of single deltas."""
    return DeltaSums(0, sums.elements, [0.0], [], sums.dd, sums.dk, sums.ee, sums.meant, sums.unmoved, sums.skipped)


def _report(sums: DeltaSums) -> dict[str, Any]:
    return {
        "elements": sums.elements,
        "skipped": sums.skipped,
        "changed": sums.meant,
        "unmoved": sums.unmoved / sums.meant if sums.meant else 0.0,
        "kept": sums.dk / sums.dd if sums.dd else 1.0,
        "relative_error": (sums.ee / sums.dd) ** 0.5 if sums.dd else 0.0,
    }
