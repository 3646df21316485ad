"""The value of a source: read, computed in float64 (or as the kernel declares), not yet rounded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from surgeon import registry
from surgeon.checkpoint.header import StoredTensor
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.reader import TORCH, read
from surgeon.checkpoint.rounding import round_once
from surgeon.ops.plan import Apply, Copy, OutTensor, Piece, Rows, Source, Zeros, source_to_json
from surgeon.ops.rowwise import at_rows, chunk_rows, kind_and_name, takes_rows

Tables = Mapping[str, Mapping[str, Tensor]]
Run = tuple[int, int]
Cache = dict[str, Any]  # what is known of one output tensor, for as long as its chunks are computed


@dataclass
class Evaluator:
    """Evaluates the sources of one plan. Stateless between tensors; a cache serves the chunks of one tensor."""

    inputs: Mapping[str, Checkpoint]
    seed: int = 0
    tables: Tables = field(default_factory=dict)

    def tensor(self, out: OutTensor, rows: Run | None = None, cache: Cache | None = None) -> Tensor:
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
        cache: Cache | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """The unrounded value, of `rows` where given. `dtype` is what zeros are made of."""
        shape_here = shape if rows is None else (rows[1] - rows[0], *shape[1:])
        match source:
            case Copy(_, _, shift):
                return read(self.stored(source), shifted(rows, shift))
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
        cache: Cache | None,
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
        cache: Cache | None,
        dtype: torch.dtype,
    ) -> Tensor:
        match piece.source:
            case Copy(_, _, shift):
                return read(self.stored(piece.source), shifted(at, shift))
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
        cache: Cache | None,
    ) -> Tensor:
        if rows is not None and not at_rows(source):
            return self._cached(source, shape, name, cache)[rows[0] : rows[1]]
        return self.applied(source, shape, name, rows, cache)[1]

    def applied(
        self, source: Apply, shape: tuple[int, ...], name: str, rows: Run | None, cache: Cache | None
    ) -> tuple[list[Tensor], Tensor]:
        """The inputs that the kernel gets, and its unrounded value; rows: where it works at rows."""
        method = registry.get(*kind_and_name(source.method))
        inputs = self._inputs(source, method, shape, name, rows, cache)
        supply: dict[str, Any] = {
            "inputs": inputs,
            "shape": shape if rows is None else (rows[1] - rows[0], *shape[1:]),
            "rows": rows,
            "whole": shape,
            # of two tensors that are one matrix the draws are the same
            "seed": tensor_seed(self.seed, source.options.get("drawn_as", name)),
            "table": None if source.attachment is None else self.tables[source.attachment],
            "pieces": partial(self._pieces, source, method, shape, name, cache),
            # by identity: the source lives in the plan, longer than what is known of one of its tensors
            "memo": {} if cache is None else cache.setdefault(f"memo {id(source)}", {}),
        }
        return inputs, method.call(supply, source.options)

    def _inputs(
        self,
        source: Apply,
        method: registry.Method,
        shape: tuple[int, ...],
        name: str,
        rows: Run | None,
        cache: Cache | None,
    ) -> list[Tensor]:
        """The values of the inputs in the type that the kernel computes in, of `rows` where it works at rows."""
        at = takes_rows(method, len(source.inputs))
        inputs = [
            self.value(i, self._shape(i, shape), name, rows if here else None, cache)
            for i, here in zip(source.inputs, at, strict=True)
        ]
        compute = method.trait("COMPUTE", "float64")
        if compute == "stored":
            return inputs
        return [widened(i, getattr(torch, compute)) if i.dtype.is_floating_point else i for i in inputs]

    def _pieces(
        self, source: Apply, method: registry.Method, shape: tuple[int, ...], name: str, cache: Cache | None
    ) -> Iterator[list[Tensor]]:
        """All inputs of a kernel, chunk by chunk over the whole tensor (a scalar is one chunk)."""
        if not shape:
            yield self._inputs(source, method, shape, name, None, cache)
            return
        step = chunk_rows(shape)
        for start in range(0, shape[0], step):
            yield self._inputs(source, method, shape, name, (start, min(start + step, shape[0])), cache)

    def _cached(self, source: Apply, shape: tuple[int, ...], name: str, cache: Cache | None) -> Tensor:
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


def shifted(rows: Run | None, shift: int) -> Run | None:
    """The rows of a tensor in which a token stands `shift` rows from where it stands in the output."""
    if rows is None:
        assert shift == 0, "only pieces are shifted"
        return None
    return (rows[0] + shift, rows[1] + shift)


def widened(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The same values in a wider type; from two bytes by way of float32, which is exact and much faster in torch."""
    if dtype == torch.float64 and tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.to(dtype)


def tensor_seed(seed: int, name: str) -> int:
    """63 bits from the plan's seed and the tensor's name: independent of order, threads and shards."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1


def evaluate(source: Source, dtype: str, shape: tuple[int, ...], inputs: Mapping[str, Checkpoint], *,
             name: str = "", seed: int = 0, tables: Tables | None = None) -> Tensor:  # fmt: skip
    """One source on open checkpoints, rounded once to `dtype` (a safetensors code)."""
    return Evaluator(inputs, seed, tables or {}).tensor(OutTensor(name, dtype, shape, source))
