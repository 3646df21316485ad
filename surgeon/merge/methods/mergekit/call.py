"""One call of a mergekit method on the tensors of one output."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgeon.errors import UsageError

# of those that draw nothing several may run at a time; the others take their numbers from the generator that all
# threads share. What is not known here counts as one that draws.
DRAWS_NOTHING = frozenset(
    {
        "breadcrumbs", "breadcrumbs_ties", "karcher", "linear", "model_stock", "multislerp", "nearswap", "nuslerp",
        "ram", "ramplus_tl", "sce", "slerp", "task_arithmetic", "ties",
    }
)  # fmt: skip
_GENERATOR = threading.Lock()


@dataclass(frozen=True, slots=True)
class Call:
    """name: as mergekit has it. weighted: whether it takes a weight for each model."""

    name: str
    weighted: bool

    def with_base(
        self, base: Tensor | None, deltas: list[Tensor], weights: list[float], seed: int, **options: Any
    ) -> Tensor:
        """The models are base + delta in float64, which mergekit takes apart again: exact for models stored in 32
        bits or fewer, where neither sum is rounded. Without a base `deltas` are the models."""
        if base is None:
            return self._merge(deltas, weights, seed, options, None)
        return self._merge([base, *(base + delta for delta in deltas)], weights, seed, options, 0)

    def without_base(self, tensors: list[Tensor], weights: list[float], seed: int, **options: Any) -> Tensor:
        return self._merge(tensors, weights, seed, options, None)

    def _merge(
        self, tensors: list[Tensor], weights: list[float], seed: int, options: dict[str, Any], base: int | None
    ) -> Tensor:
        parameters = self._parameters(weights, dict(options))
        if self.name in DRAWS_NOTHING:
            return self._call(tensors, parameters, base)
        with _GENERATOR, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._call(tensors, parameters, base)

    def _parameters(self, weights: list[float], options: dict[str, Any]) -> dict[str, Any]:
        scale = options.pop("scale", 1.0)
        if scale != 1:
            if options["lambda"] != 1:
                raise UsageError("scale and lambda are one number", "--option lambda", "give one of the two")
            options["lambda"] = scale
        if self.weighted:
            return options | {"weight": list(weights)}
        if any(weight != 1 for weight in weights):
            raise UsageError(f"mergekit:{self.name} takes no weights", "MODEL=WEIGHT", "leave the weights out")
        return options

    def _call(self, tensors: list[Tensor], parameters: dict[str, Any], base: int | None) -> Tensor:
        from mergekit.merge_methods import merge_tensors

        try:
            merged: Tensor = merge_tensors(
                tensors, self.name, base_index=base, parameters=parameters, dtype=torch.float64
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"mergekit does not merge this: {error}", f"mergekit:{self.name}", "see mergekit's documentation"
            ) from error
        return merged
