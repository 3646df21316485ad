"""The sums that a merge of one tensor would take, without writing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from surgeon.checkpoint.index import Checkpoint
from surgeon.ops.delta_sums import DeltaSums
from surgeon.ops.plan import OutTensor
from surgeon.ops.rowwise import chunk_rows
from surgeon.ops.sum_piece import SumPiece
from surgeon.ops.weighted_sum import weighted_sum

Measure = Callable[[OutTensor, int, int], DeltaSums]


def sums_of(out: OutTensor, inputs: Mapping[str, Checkpoint], elsewhere: Measure) -> DeltaSums:
    """Of a tensor whose source is a weighted sum. elsewhere: the sums of rows [start, stop) that are not plain."""
    program = weighted_sum(out, inputs)
    if program is None:
        return elsewhere(out, 0, out.shape[0] if out.shape else 0)
    piece, width = SumPiece(program, every=1), program.width
    found = DeltaSums(len(program.models))
    for segment in program.segments:
        if segment.plain:
            for _ in piece.blocks(segment, segment.start * width, segment.stop * width):
                pass
        else:
            found.add(elsewhere(out, segment.start, segment.stop))
    found.add(piece.sums)
    return found


def with_torch(inputs: Mapping[str, Checkpoint], tables: Mapping[str, bytes]) -> Measure:
    """Measures rows that have to be computed."""

    def measure(out: OutTensor, start: int, stop: int) -> DeltaSums:
        from safetensors.torch import load

        from surgeon.checkpoint.reader import TORCH
        from surgeon.checkpoint.rounding import round_once
        from surgeon.ops.evaluate import Cache, Evaluator
        from surgeon.ops.measure_change import ChangeMeter

        evaluator = Evaluator(inputs, tables={name: load(raw) for name, raw in tables.items()})
        meter = ChangeMeter.of(out, evaluator)
        assert meter is not None
        cache: Cache = {}
        step = chunk_rows(out.shape) if out.shape else 1
        runs = [(at, min(at + step, stop)) for at in range(start, stop, step)] if out.shape else [None]
        for rows in runs:
            exact = meter.exact(rows, cache)
            meter.add(exact, round_once(exact, TORCH[out.dtype]))
        return meter.sums

    return measure
