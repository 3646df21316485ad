"""Stacked experts under autocast: their grouped products are taken in its type, as those of every other matrix are.

torch's grouped product is not one of the operations that autocast casts, and transformers brings its input to the type
of the weights: float32 master weights are then multiplied in float32, which on a GPU is neither what the run says nor
a kernel of its own (pytorch issue 174763).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = "surgeon_grouped_mm"
_MATRICES = ("gate_up_proj", "up_proj", "down_proj")


class _Cast:
    """Experts whose matrices are read in another type; gradients go to the matrices as they are."""

    def __init__(self, experts: Any, dtype: torch.dtype) -> None:
        self._experts, self._dtype = experts, dtype

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._experts, name)
        return found.to(self._dtype) if name in _MATRICES else found


def grouped_experts(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """hidden_states: [tokens, H]; top_k_index, top_k_weights: [tokens, K]; result [tokens, H] in the type of
    `hidden_states`. The library's grouped product, of matrices in autocast's type where that is on."""
    from transformers.integrations.moe import grouped_mm_experts_forward

    place = hidden_states.device.type
    if torch.is_autocast_enabled(place):
        experts = _Cast(experts, torch.get_autocast_dtype(place))
    result: Tensor = grouped_mm_experts_forward(experts, hidden_states, top_k_index, top_k_weights)
    return result


def under_autocast(model: Any) -> None:
    """Let the experts of a model that go by the library's grouped product go by this one."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(NAME, grouped_experts)
    module: Any
    for module in model.modules():
        # `has_gate` is what the library's decorator gives to experts whose products can be chosen
        if hasattr(module, "has_gate") and module.config._experts_implementation == "grouped_mm":
            module.config._experts_implementation = NAME
