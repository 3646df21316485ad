"""An attention function for transformers that takes the lengths of segments instead of a mask.

On a GPU in half precision it calls torch's variable-length flash attention, elsewhere it attends segment by segment.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

NAME = "surgeon_segments"


def register() -> None:
    """Make the function known under NAME; unknown to the library's masks, so that none is built."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, segment_attention)


def segment_arguments(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What to pass to the model's forward; the names are the library's own for packed sequences."""
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32).to(device)
    longest = max(lengths)  # a Python number: a tensor would make every block wait for the device
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def segment_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """query: [1, H, T, d]; key, value: [1, Hkv, T, d], all segments one behind the other; result [1, T, H, d].

    Raises ValueError where the model's code does not hand over the lengths, or asks for what is not computed here.
    """
    ends = options.get("cu_seq_lens_q")
    if ends is None or options.get("softcap") is not None or options.get("s_aux") is not None:
        raise ValueError("this attention is not served: no lengths, or soft-capping or sinks")
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise ValueError("segments are one row without a cache")
    if query.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
        half = torch.get_autocast_dtype("cuda")  # rotary embeddings leave queries and keys in float32
        query, key, value = query.to(half), key.to(half), value.to(half)
    if query.device.type == "cuda" and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        return _varlen(query, key, value, ends, options["max_length_q"], scaling), None
    outputs = []
    bounds = ends.tolist()
    shared = query.shape[1] != key.shape[1]
    for start, stop in itertools.pairwise(bounds):
        q, k, v = (t[:, :, start:stop] for t in (query, key, value))
        one = F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True, scale=scaling, enable_gqa=shared)
        outputs.append(one)
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _varlen(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scaling: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"window_size": (-1, 0), "scale": scaling}
    if "enable_gqa" in _varlen_options():  # torch 2.11 groups by itself, 2.13 only when asked
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
    found: Tensor = varlen_attn(q, k, v, ends, ends, longest, longest, **options)  # type: ignore[assignment]
    return found[None]


@cache
def _varlen_options() -> frozenset[str]:
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)
