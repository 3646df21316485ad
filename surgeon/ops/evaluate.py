"""The value of a source: read, computed in float64 (or as the kernel declares), not yet rounded."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from surgeon import registry
from surgeon.checkpoint.header import StoredTensor
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.reader import TORCH, read
from surgeon.checkpoint.rounding import round_once
from surgeon.ops.plan import Apply, Copy, OutTensor, Piece, Rows, Source, Zeros, source_to_json

Tables = Mapping[str, Mapping[str, Tensor]]
Run = tuple[int, int]
CHUNK_ELEMENTS = 1 << 20


@dataclass
class Evaluator:
    """Evaluates the sources of one plan. Stateless between tensors; a cache serves the chunks of one tensor."""

    inputs: Mapping[str, Checkpoint]
    seed: int = 0
    tables: Tables = field(default_factory=dict)

    def tensor(self, out: OutTensor, rows: Run | None = None, cache: dict[str, Tensor] | None = None) -> Tensor:
        """Output tensor (or its rows) in its output dtype, rounded once."""
        values = self.value(out.source, out.shape, out.name, rows, cache, TORCH[out.dtype])
        count = out.shape if rows is None else (rows[1] - rows[0], *out.shape[1:])
        if tuple(values.shape) != tuple(count):
            raise ValueError(f"{out.name}: the source gives {tuple(values.shape)}, the plan says {tuple(count)}")
        return round_once(values, TORCH[out.dtype])

    def value(
        self,
        source: Source,
        shape: tuple[int, ...],
        name: str,
        rows: Run | None = None,
        cache: dict[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """The unrounded value, of `rows` where given. `dtype` is what zeros are made of."""
        shape_here = shape if rows is None else (rows[1] - rows[0], *shape[1:])
        match source:
            case Copy():
                return read(self.stored(source), rows)
            case Zeros():
                return torch.zeros(shape_here, dtype=dtype)
            case Rows(pieces):
                return self._rows(pieces, shape, name, rows, cache, dtype)
            case Apply():
                return self._apply(source, shape, name, rows, cache)

    def stored(self, copy: Copy) -> StoredTensor:
        return self.inputs[copy.model].tensor(copy.tensor)

    def _rows(
        self,
        pieces: tuple[Piece, ...],
        shape: tuple[int, ...],
        name: str,
        rows: Run | None,
        cache: dict[str, Tensor] | None,
        dtype: torch.dtype,
    ) -> Tensor:
        first, last = rows or (0, shape[0])
        parts: list[tuple[int, Tensor]] = []
        for piece in pieces:
            done = 0
            for start, stop in piece.ids:
                low, high = max(start, first), min(stop, last)
                if low < high:
                    within = (done + low - start, done + high - start)
                    parts.append((low, self._piece(piece, (low, high), within, shape, name, cache, dtype)))
                done += stop - start
        values = [part for _, part in sorted(parts, key=lambda p: p[0])]
        wide = values[0].dtype
        for part in values[1:]:
            wide = torch.promote_types(wide, part.dtype)
        return torch.cat([part.to(wide) for part in values])

    def _piece(
        self,
        piece: Piece,
        at: Run,
        within: Run,
        shape: tuple[int, ...],
        name: str,
        cache: dict[str, Tensor] | None,
        dtype: torch.dtype,
    ) -> Tensor:
        match piece.source:
            case Copy():
                return read(self.stored(piece.source), at)
            case Zeros():
                return torch.zeros((at[1] - at[0], *shape[1:]), dtype=dtype)
            case Rows():
                return self.value(piece.source, shape, name, at, cache, dtype)
            case Apply() if at_rows(piece.source):
                return self.value(piece.source, shape, name, at, cache, dtype)
            case Apply():
                whole = self._cached(piece.source, (piece.count, *shape[1:]), name, cache)
                return whole[within[0] : within[1]]

    def _apply(
        self,
        source: Apply,
        shape: tuple[int, ...],
        name: str,
        rows: Run | None,
        cache: dict[str, Tensor] | None,
    ) -> Tensor:
        if rows is not None and not at_rows(source):
            return self._cached(source, shape, name, cache)[rows[0] : rows[1]]
        method = registry.get(*_kind_and_name(source.method))
        compute = method.trait("COMPUTE", "float64")
        at = takes_rows(method, len(source.inputs))
        inputs = [
            self.value(i, self._shape(i, shape), name, rows if here else None, cache)
            for i, here in zip(source.inputs, at, strict=True)
        ]
        if compute != "stored":
            inputs = [widened(i, getattr(torch, compute)) if i.dtype.is_floating_point else i for i in inputs]
        supply: dict[str, Any] = {
            "inputs": inputs,
            "shape": shape if rows is None else (rows[1] - rows[0], *shape[1:]),
            "rows": rows,
            "whole": shape,
            "seed": tensor_seed(self.seed, name),
            "table": None if source.attachment is None else self.tables[source.attachment],
        }
        return method.call(supply, source.options)

    def _cached(self, source: Apply, shape: tuple[int, ...], name: str, cache: dict[str, Tensor] | None) -> Tensor:
        if cache is None:
            return self._apply(source, shape, name, None, None)
        key = json.dumps(source_to_json(source), sort_keys=True)
        if key not in cache:
            cache[key] = self._apply(source, shape, name, None, cache)
        return cache[key]

    def _shape(self, source: Source, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an input: a tensor's own, the rows that pieces cover, else the output's."""
        match source:
            case Copy():
                return self.stored(source).shape
            case Rows(pieces):
                return (sum(piece.count for piece in pieces), *shape[1:])
        return shape


def widened(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The same values in a wider type; from two bytes by way of float32, which is exact and much faster in torch."""
    if dtype == torch.float64 and tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.to(dtype)


def rowwise(source: Source) -> bool:
    """Whether rows of this source can be computed without its other rows."""
    match source:
        case Apply(method, inputs, options):
            found = registry.get(*_kind_and_name(method))
            trait = found.trait("ROWWISE", bool(found.trait("AT_ROWS", ())))
            here = trait(options) if callable(trait) else bool(trait)
            return here and all(rowwise(i) for i, at in zip(inputs, takes_rows(found, len(inputs)), strict=True) if at)
    return True


def takes_rows(method: registry.Method, count: int) -> tuple[bool, ...]:
    """Which inputs are given at the rows at hand: all, unless the kernel declares AT_ROWS for the first ones (the
    others it gets whole)."""
    declared = method.trait("AT_ROWS", None)
    if declared is None:
        return (True,) * count
    return tuple(declared[i] if i < len(declared) else False for i in range(count))


def chunk_rows(shape: tuple[int, ...]) -> int:
    """How many rows of an elementwise computation are done at a time."""
    return max(1, CHUNK_ELEMENTS // max(math.prod(shape[1:]), 1))


def at_rows(source: Apply) -> bool:
    """Whether an Apply inside a piece is taken at the piece's row ids, as a Copy is."""
    return bool(source.inputs) and rowwise(source)


def tensor_seed(seed: int, name: str) -> int:
    """63 bits from the plan's seed and the tensor's name: independent of order, threads and shards."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1


def evaluate(source: Source, dtype: str, shape: tuple[int, ...], inputs: Mapping[str, Checkpoint], *,
             name: str = "", seed: int = 0, tables: Tables | None = None) -> Tensor:  # fmt: skip
    """One source on open checkpoints, rounded once to `dtype` (a safetensors code)."""
    return Evaluator(inputs, seed, tables or {}).tensor(OutTensor(name, dtype, shape, source))


def _kind_and_name(method: str) -> tuple[str, str]:
    kind, _, name = method.partition(":")
    return kind, name
