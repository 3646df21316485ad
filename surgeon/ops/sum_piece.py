"""Computes pieces of weighted sums: stored bytes in, stored bytes out, in blocks that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.checkpoint.decode import Decoder
from surgeon.checkpoint.encode import Encoder
from surgeon.errors import SurgeonError
from surgeon.ops.delta_meter import DeltaMeter
from surgeon.ops.delta_sums import DeltaSums
from surgeon.ops.exact_sum import ExactSum
from surgeon.ops.fused_sum import FusedSum
from surgeon.ops.sum_program import Segment, Term, WeightedSum

BLOCK = 1 << 16  # elements
RUN = 8  # blocks that compiled code does at a time
EVERY, SMALL = 8, 8  # of tensors of more than SMALL blocks every EVERY-th one is measured

Array = NDArray[Any]
Handles = Mapping[int, int]  # number of a leaf -> its file, open


class SumPiece:
    """Blocks of output tensors that are sums of one kind, in buffers that are made once. `sums`: of what was computed
    since `begin`; every: which blocks of large tensors they are of."""

    def __init__(self, program: WeightedSum, every: int = EVERY) -> None:
        self._every = every
        self._kind = _kind(program)
        self._decoder = Decoder(BLOCK)
        self._exact = ExactSum(BLOCK, program.has_base)
        self._encoder = Encoder(BLOCK, program.dtype, self._exact.scratch)
        self._fused = FusedSum(BLOCK)
        num = program.num_terms if program.has_base else 0
        self._deltas = [np.empty(BLOCK, np.float32) for _ in range(num)]
        self._base, self._first, self._meant = (np.empty(BLOCK, np.float32) for _ in range(3))
        self._change: Array | None = None  # of the last block that was measured, where it is there in float64
        self._meter = DeltaMeter(num, BLOCK, any(leaf.stored.dtype == "F64" for leaf in program.leaves))
        self.begin(program)

    def fits(self, program: WeightedSum) -> bool:
        """Whether the buffers serve this tensor too."""
        return self._kind == _kind(program)

    def begin(self, program: WeightedSum) -> None:
        self.program = program
        self._meter.sums = DeltaSums(self._meter.sums.num)

    @property
    def sums(self) -> DeltaSums:
        return self._meter.sums

    def blocks(self, segment: Segment, start: int, stop: int, into: Array | None = None) -> Iterator[Array]:
        """Elements [start, stop) of the output, which lie in the segment, in order: stored elements (bfloat16 as
        uint16). into: where they are put; else each is a view that the next one overwrites."""
        # what is no number, or too large, is refused by name below: no warning besides
        with np.errstate(invalid="ignore", over="ignore"), ExitStack() as files:
            paths = {leaf: self.program.leaves[leaf].stored.path for leaf in segment.leaves}
            opened = {leaf: files.enter_context(path.open("rb", buffering=0)) for leaf, path in paths.items()}
            handles = {leaf: file.fileno() for leaf, file in opened.items()}
            is_fused = self._fused.serves(self.program, segment)
            for at, count in self._runs(start, stop, RUN if is_fused and into is not None else 1):
                raw = self._encoder.raw[:count] if into is None else into[at - start : at - start + count]
                meant = self._meant[:count] if self._is_measured(at) else None
                self._change = None
                if is_fused:
                    finite = self._fused.store(self.program, segment, handles, at, raw, meant)
                else:
                    finite = self._compute(segment, handles, at, raw, meant)
                if not finite:
                    self._refuse(handles, at, raw)
                if meant is None:
                    self._meter.sums.skipped += count
                else:
                    self._measure(segment, handles, at, raw, meant)
                yield raw

    def _runs(self, start: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
        """(first element, how many): single blocks where they are measured, else up to `most` at a time."""
        at = start
        while at < stop:
            blocks = 1
            while blocks < most and not self._is_measured(at) and not self._is_measured(at + blocks * BLOCK):
                blocks += 1
            count = min(blocks * BLOCK, stop - at)
            yield at, count
            at += count

    def _compute(self, segment: Segment, handles: Handles, at: int, raw: Array, meant: Array | None) -> bool:
        """With numpy, an operation at a time. meant: where the total less the base goes, rounded to float32."""

        def wide(leaf: int, out: Array) -> Array:
            return self._decoder.wide(handles[leaf], self.program.leaves[leaf].stored, self._place(leaf, at), out)

        total = self._exact.total(segment, wide, len(raw))
        self._encoder.encode(total, raw)
        if meant is not None:
            self._change = self._exact.change(segment, total)
            np.copyto(meant, self._change, casting="same_kind")
        return self._encoder.is_finite(raw)

    def _place(self, leaf: int, at: int) -> int:
        """The element of a leaf that meets the output's."""
        return at + self.program.leaves[leaf].shift * self.program.width

    def _measure(self, segment: Segment, handles: Handles, at: int, raw: Array, meant: Array) -> None:
        """Few blocks are: their inputs are read anew, so that nothing of the others is kept for it."""
        count, leaves = len(raw), self.program.leaves

        def single(leaf: int | None, out: Array) -> Array:
            if leaf is None:
                out.fill(0.0)
                return out
            return self._decoder.single(handles[leaf], leaves[leaf].stored, self._place(leaf, at), out)

        def wide(leaf: int | None) -> Array:
            if leaf is None:
                return np.zeros(count)
            return self._decoder.wide(handles[leaf], leaves[leaf].stored, self._place(leaf, at), np.empty(count))

        def vectors() -> list[Array]:
            terms = segment.terms
            return [wide(segment.base), *(wide(t.values) - wide(None if t.values is None else t.first) for t in terms)]

        def difference(term: Term, out: Array) -> Array:
            if term.values is None or term.first is None:
                return single(term.values, out)
            if "F64" in (leaves[term.values].stored.dtype, leaves[term.first].stored.dtype):
                np.copyto(out, wide(term.values) - wide(term.first), casting="same_kind")
                return out
            return np.subtract(single(term.values, out), single(term.first, self._first[:count]), out=out)

        base = single(segment.base, self._base[:count])
        deltas = [difference(term, out[:count]) for term, out in zip(segment.terms, self._deltas, strict=True)]
        stored = self._encoder.stored(raw)
        self._meter.vectors(base, deltas, vectors)
        change = meant if self._change is None else self._change
        self._meter.survival(
            base, meant, stored, lambda: [wide(segment.base), *(x.astype(np.float64) for x in (change, stored))]
        )

    def _is_measured(self, at: int) -> bool:
        if not self.program.has_base:
            return False
        return math.prod(self.program.shape) <= SMALL * BLOCK or at // BLOCK % self._every == 0

    def _refuse(self, handles: Handles, at: int, raw: Array) -> None:
        """Name the input that holds what is no number; sums that are too large for the type are none of these."""
        for start in range(0, len(raw), BLOCK):
            part = raw[start : start + BLOCK]
            for leaf, handle in handles.items():
                held, place = self.program.leaves[leaf], self._place(leaf, at + start)
                values = self._decoder.wide(handle, held.stored, place, np.empty(len(part)))
                refuse_not_finite(values, held.model, held.stored.name, place)
            refuse_overflow(self._encoder.stored(part), self.program.name, self.program.dtype)


def piece_bytes(program: WeightedSum) -> int:
    """Memory of the buffers for such a tensor, as far as they count."""
    return BLOCK * (96 + 8 * (len(program.leaves) + program.num_terms))


def _kind(program: WeightedSum) -> tuple[str, bool, int, bool]:
    single = all(leaf.stored.dtype != "F64" for leaf in program.leaves)
    return program.dtype, program.has_base, program.num_terms, single


def refuse_not_finite(values: Array, model: str, tensor: str, start: int = 0) -> None:
    """Raises SurgeonError on NaN or infinity in a piece of a model's tensor that starts at this element."""
    found = np.flatnonzero(~np.isfinite(values))
    if len(found):
        what = "NaN" if np.isnan(values.reshape(-1)[found[0]]) else "an infinite value"
        raise SurgeonError(
            f"{tensor!r} holds {what} at element {start + int(found[0]):,}",
            model,
            "give a checkpoint without it: `surgeon inspect` lists where they are",
        )


def refuse_overflow(stored: Array, name: str, dtype: str) -> None:
    """Raises SurgeonError where finite values have become infinite in the stored type."""
    if not np.isfinite(stored).all():
        raise SurgeonError(
            f"{name!r} gets values that {dtype} cannot hold",
            "the merged model",
            "use --dtype bfloat16 or float32" if dtype == "F16" else "give smaller weights",
        )
