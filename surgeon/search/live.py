"""theta(w) = reference + sum of w_i x delta_i, set in place in one live model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.reader import TORCH
from surgeon.errors import SurgeonError
from surgeon.merge.methods.task_arithmetic import weighted_sum
from surgeon.ops.memory import memory_available
from surgeon.ops.plan import Plan
from surgeon.search.live_model import float_tensors, model_of, stored_name
from surgeon.search.parts import Parts, Sources
from surgeon.search.special_rows import SpecialRows

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Live:
    """A model of the output's shape whose weights are, at any w, those that the merge with w writes: the same float64
    formula in the same order, rounded once to the type that the output stores, then held in float32. Of MODEL+ADAPTER
    up to one unit in the last place of some: the merge has its sum in float64, here it is held in float32.

    The reference and every model are kept in memory in float32, beside the live model: (2 + models) x 4 bytes a
    parameter (one more for the method residual, less where a model has no delta). Where special tokens are taken whole
    from the models that count, their rows follow w as they do in the merge; rows that only a model of weight 0 would
    add are there all the same, since one model serves all w.
    Raises SurgeonError where that does not fit into the memory that is available (or into `memory` bytes).
    """

    def __init__(
        self, plan: Plan, sources: Sources, special: SpecialRows, scale: float, memory: int | None = None
    ) -> None:
        self._plan, self._special, self._scale = plan, special, scale
        self._where = str(sources.alignment.target.checkpoint.path)
        self.num_bytes = sources.num_bytes() + sum(4 * math.prod(t.shape) for t in plan.tensors)
        _check_memory(self.num_bytes, memory_available() if memory is None else memory, len(sources.members))
        stored = sources.parts(sources.outs)
        self.model: Any = model_of(plan.config, {n: t.clone() for n, t in stored.start.items()}, self._where)
        self._tensors = float_tensors(self.model)
        self._parts = self._loaded(stored)
        self._dtypes = self._types()
        self._rows = special.key(())
        self._sources = sources

    def at(self, weights: Sequence[float]) -> None:
        """Set the model to these weights, one for every model of the merge in the order of their digests."""
        key = self._special.key(weights)
        if key != self._rows:
            self._sources = replace(self._sources, alignment=self._special.alignment(key))
            self._reload_vocabulary()
            self._rows = key
        factors = weighted_sum(list(weights), scale=self._scale)
        for name, tensor in self._tensors.items():
            reference = self._parts.reference[name]
            ends = [
                (factor, end[name])
                for factor, end in zip(factors, self._parts.ends, strict=True)
                if factor != 0 and end[name] is not reference
            ]
            _set(tensor, self._parts.start[name], reference, ends, self._dtypes[name])

    def _loaded(self, stored: Parts) -> Parts:
        """Every part by the names of the live model, by the way of its own loading; empties `stored` on the way, since
        what the library fuses is there twice for a while."""
        same: dict[tuple[str, int], Tensor] = {}
        columns: list[dict[str, Tensor]] = []
        firsts = [next(j for j, other in enumerate(stored.all) if _is_same(column, other)) for column in stored.all]
        for number, first in enumerate(firsts):
            if first < number:
                columns.append(dict(columns[first]))
                continue
            found = float_tensors(model_of(self._plan.config, stored.all[number], self._where))
            # one object for one piece of memory: that a part is another one is known by that
            columns.append({n: same.setdefault((n, found[n].data_ptr()), found[n]) for n in self._tensors})
            if number not in firsts[number + 1 :]:
                stored.all[number].clear()
        return Parts(columns[0], columns[1], tuple(columns[2:]))

    def _types(self) -> dict[str, torch.dtype]:
        """What the output stores each tensor in. One that the library makes of several has their type if it is one for
        all of the output, else it is not rounded."""
        import torch

        stored = {t.name: TORCH[t.dtype] for t in self._plan.tensors if TORCH[t.dtype].is_floating_point}
        only = next(iter(set(stored.values()))) if len(set(stored.values())) == 1 else torch.float32
        names = {name: stored_name(name, self.model, stored) for name in self._tensors}
        return {name: only if held is None else stored[held] for name, held in names.items()}

    def _reload_vocabulary(self) -> None:
        """The matrices with a row a token, of which the library holds what the files do."""
        family, model = self._sources.alignment.family, self.model
        head = model.get_output_embeddings()
        held = {family.embedding: model.get_input_embeddings().weight}
        if head is not None:
            held[self._sources.alignment.head] = head.weight
        if family.head_bias is not None:
            held[family.head_bias] = head.bias
        names = {id(tensor): name for name, tensor in model.named_parameters()}
        wanted: dict[str, str] = {}
        for stored, tensor in held.items():
            if stored in self._sources.merged and names.get(id(tensor)) not in (None, *wanted.values()):
                wanted[stored] = names[id(tensor)]
        found = self._sources.parts(wanted)
        for into, fresh in zip(self._parts.all, found.all, strict=True):
            for name, live in wanted.items():
                into[live] = fresh[name]


def _set(
    tensor: Tensor, start: Tensor, reference: Tensor, ends: Sequence[tuple[float, Tensor]], dtype: torch.dtype
) -> None:
    """tensor = start + sum of factor x (end - reference), rounded to `dtype`. A lone model at factor 1 is itself."""
    from surgeon.checkpoint.rounding import round_once
    from surgeon.ops.rowwise import chunk_rows

    if start is reference and len(ends) == 1 and ends[0][0] == 1:
        start, ends = ends[0][1], []
    step = chunk_rows(tuple(tensor.shape)) if tensor.dim() else 1
    for begin in range(0, tensor.shape[0] if tensor.dim() else 1, step):
        rows = slice(begin, begin + step) if tensor.dim() else ...
        values = start[rows].double()
        for factor, end in ends:
            # a product, then a sum, each rounded: as the merge does it
            values += (end[rows].double() - reference[rows].double()) * factor
        tensor[rows] = round_once(values, dtype).float()


def _is_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(tensor is other.get(name) for name, tensor in one.items())


def _check_memory(need: int, available: int, models: int) -> None:
    if need > available:
        raise SurgeonError(
            f"the search keeps the model, its reference and {models} tuned {'model' if models == 1 else 'models'} in "
            f"float32: {need:,} bytes",
            f"--search: {available:,} bytes of memory are available",
            "search fewer models at a time, or use a machine with more memory",
        )
