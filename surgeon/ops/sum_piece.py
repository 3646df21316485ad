"""Computes pieces of weighted sums: stored bytes in, stored bytes out, in blocks that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgeon.checkpoint.decode import Decoder
from surgeon.checkpoint.encode import Encoder, few_true
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.ops.delta_meter import DeltaMeter, dot
from surgeon.ops.delta_sums import DeltaSums
from surgeon.ops.plan import Copy, OutTensor
from surgeon.ops.weighted_sum import Segment, WeightedSum

BLOCK = 1 << 17  # elements
EVERY, SMALL = 4, 4  # of tensors of more than SMALL blocks every EVERY-th one is measured


class Block(NamedTuple):
    """Stored bytes of the output from element `start` on; a view that the next block overwrites."""

    start: int
    data: memoryview


class SumPiece:
    """Blocks of output tensors that are sums of one kind, in buffers that are made once. `sums`: of what was computed
    since `begin`; every: which blocks of large tensors they are of."""

    def __init__(
        self, out: OutTensor, program: WeightedSum, inputs: Mapping[str, Checkpoint], every: int = EVERY
    ) -> None:
        self.inputs, self._every = inputs, every
        self._kind = _kind(out, program)
        self._encoder = Encoder(BLOCK, out.dtype)
        self._decoders: dict[tuple[str, int], Decoder] = {}
        self._sum, self._product = np.empty(BLOCK), np.empty(BLOCK)
        self._is_zero = np.empty(BLOCK, np.bool_)
        self._num = len(program.models) if program.has_base else 0
        self._singles = [np.empty(BLOCK, np.float32) for _ in range(self._num + 1)]
        self._zeros = np.zeros(BLOCK, np.float32)
        self._meter = DeltaMeter(self._num, BLOCK)
        self.begin(out, program)

    def fits(self, out: OutTensor, program: WeightedSum) -> bool:
        """Whether the buffers serve this tensor too."""
        return self._kind == _kind(out, program)

    def begin(self, out: OutTensor, program: WeightedSum) -> None:
        self.out, self.program = out, program
        self.width = math.prod(out.shape[1:])
        self._meter.sums = DeltaSums(self._num)

    @property
    def sums(self) -> DeltaSums:
        return self._meter.sums

    def blocks(self, segment: Segment, start: int, stop: int) -> Iterator[Block]:
        """Elements [start, stop) of the output, which lie in the segment."""
        # what is no number, or too large, is refused by name below: no warning besides
        with np.errstate(invalid="ignore", over="ignore"):
            yield from self._blocks(segment, start, stop)

    def _blocks(self, segment: Segment, start: int, stop: int) -> Iterator[Block]:
        leaves = [segment.base, *(leaf for term in segment.terms for leaf in (term.values, term.first))]
        stored = {leaf: self.inputs[leaf.model].tensor(leaf.tensor) for leaf in leaves if leaf is not None}
        with ExitStack() as files:
            handles = {
                leaf: files.enter_context(t.path.open("rb", buffering=0)).fileno() for leaf, t in stored.items()
            }
            for at in range(start, stop, BLOCK):
                count = min(BLOCK, stop - at)
                held = {}
                for number, (leaf, tensor) in enumerate(stored.items()):
                    decoder = self._decoder(number, tensor.dtype)
                    decoder.load(handles[leaf], tensor, at + leaf.shift * self.width, count)
                    held[leaf] = decoder
                yield Block(at, self._block(segment, held, at, count))

    def _decoder(self, number: int, dtype: str) -> Decoder:
        if (dtype, number) not in self._decoders:
            self._decoders[dtype, number] = Decoder(BLOCK, dtype)
        return self._decoders[dtype, number]

    def _block(self, segment: Segment, held: Mapping[Copy, Decoder], at: int, count: int) -> memoryview:
        total, product = self._sum[:count], self._product[:count]
        begun = segment.base is not None
        so_far = total if segment.base is None else held[segment.base].wide[:count]
        measured = self._is_measured(at)
        deltas = []
        for number, term in enumerate(segment.terms):
            if term.values is None:
                if measured:
                    deltas.append(self._zeros[:count])
                continue
            values = held[term.values].wide[:count]
            if term.first is not None:
                values = np.subtract(values, held[term.first].wide[:count], out=product)
            if measured:
                single = self._singles[number][:count]
                np.copyto(single, values, casting="same_kind")
                deltas.append(single)
            if term.weight != 1:
                values = np.multiply(values, term.weight, out=product)
            if begun or self.program.has_base:
                np.add(so_far if begun else 0.0, values, out=total)
            else:
                np.copyto(total, values)
            begun, so_far = True, total
        if so_far is not total:
            np.copyto(total, so_far)
        elif not begun:
            total.fill(0.0)
        elif segment.base is not None:
            self._keep_signs_of_zero(total, held[segment.base].wide[:count])
        raw = self._encoder.encode(total)
        self._measure(segment, held, deltas, at, count)
        return raw.data.cast("B")

    def _keep_signs_of_zero(self, total: NDArray[Any], base: NDArray[Any]) -> None:
        """-0 + 0 is +0: where nothing changes, the base's zero stays what it was."""
        zero = np.equal(total, 0, out=self._is_zero[: len(total)])
        if zero.any():
            at = few_true(zero)
            same = at[base[at] == 0]
            total[same] = base[same]

    def _measure(
        self, segment: Segment, held: Mapping[Copy, Decoder], deltas: list[NDArray[Any]], at: int, count: int
    ) -> None:
        total, meant = self._sum[:count], self._singles[-1][:count]
        if not self._is_measured(at):
            self._meter.sums.skipped += count
            if not np.isfinite(dot(self._encoder.single(count), self._encoder.single(count))):
                self._refuse(held, at, count)
            return
        base = self._zeros[:count] if segment.base is None else held[segment.base].single[:count]
        self._meter.vectors(base, deltas)
        if segment.base is None:
            np.copyto(meant, total, casting="same_kind")
        else:
            np.subtract(total, held[segment.base].wide[:count], out=self._product[:count])
            np.copyto(meant, self._product[:count], casting="same_kind")
        self._meter.survival(base, meant, self._encoder.stored(count))
        if not self._meter.finite():
            self._refuse(held, at, count)

    def _is_measured(self, at: int) -> bool:
        if not self.program.has_base:
            return False
        return math.prod(self.out.shape) <= SMALL * BLOCK or at // BLOCK % self._every == 0

    def _refuse(self, held: Mapping[Copy, Decoder], at: int, count: int) -> None:
        """Name the input that holds what is no number; sums that are too large for float32 are none of these."""
        for leaf, decoder in held.items():
            refuse_not_finite(decoder.wide[:count], self.inputs[leaf.model], leaf.tensor, at + leaf.shift * self.width)
        refuse_overflow(self._encoder.stored(count), self.out)


def _kind(out: OutTensor, program: WeightedSum) -> tuple[str, bool, int]:
    return out.dtype, program.has_base, len(program.models)


def refuse_not_finite(values: NDArray[Any], model: Checkpoint, tensor: str, start: int = 0) -> None:
    """Raises SurgeonError on NaN or infinity in a piece of a model's tensor that starts at this element."""
    found = np.flatnonzero(~np.isfinite(values))
    if len(found):
        what = "NaN" if np.isnan(values.reshape(-1)[found[0]]) else "an infinite value"
        raise SurgeonError(
            f"{tensor!r} holds {what} at element {start + int(found[0]):,}",
            str(model.path),
            "give a checkpoint without it: `surgeon inspect` lists where they are",
        )


def refuse_overflow(stored: NDArray[Any], out: OutTensor) -> None:
    """Raises SurgeonError where finite values have become infinite in the stored type."""
    if not np.isfinite(stored).all():
        raise SurgeonError(
            f"{out.name!r} gets values that {out.dtype} cannot hold",
            "the merged model",
            "use --dtype bfloat16 or float32",
        )
