"""An attention function for transformers that takes the lengths of segments instead of a mask.

On a GPU in half precision it calls torch's variable-length flash attention, elsewhere it attends segment by segment.
Without lengths it refuses, so that no model that keeps them to itself is taken for one that works; within
`rows_alone` a row is a text.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from surgeon.train.batch import moved

NAME = "surgeon_segments"
HALF = (torch.bfloat16, torch.float16)
Attend = Callable[..., Tensor]  # of queries, keys and values
_asked = False  # whether the kernel groups heads only when asked: torch 2.13; 2.11 does so by itself
_alone: ContextVar[bool] = ContextVar("rows_alone", default=False)


class Call(NamedTuple):
    """What the function was asked for: heads of queries and of keys, width of a query's head and of a value's; window:
    how many tokens a token sees, itself among them (None: all before it)."""

    heads: int
    key_heads: int
    width: int
    value_width: int
    scaling: float | None
    window: int | None = None


_calls: ContextVar[list[Call] | None] = ContextVar("calls", default=None)


def register() -> None:
    """Make the function known under NAME; unknown to the library's masks, so that none is built."""
    from torch.nn.attention.varlen import varlen_attn  # takes seconds
    from transformers import AttentionInterface

    global _asked  # found out here: a compiled block cannot look
    _asked = "enable_gqa" in inspect.signature(varlen_attn).parameters
    AttentionInterface.register(NAME, segment_attention)


def segment_arguments(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What to pass to the model's forward; the names are the library's own for packed sequences."""
    ends = moved(torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32), device)
    if "torch._dynamo" in sys.modules:  # their number changes with every batch: do not compile for one of them
        torch._dynamo.maybe_mark_dynamic(ends, 0)
    longest = max(lengths)  # a Python number: a tensor would make every block wait for the device
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


@contextmanager
def rows_alone() -> Iterator[None]:
    """Within it a pass without lengths is over rows that hold a text each, with nothing but padding behind it."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextmanager
def observed() -> Iterator[list[Call]]:
    """The calls of the function within it, in order."""
    calls: list[Call] = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def kernel_holds(calls: Iterable[Call], device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device's kernel gives for such calls what attention segment by segment gives in float32, and its
    gradients, on random inputs; true where no kernel is called. A kernel that does not serve a call raises, which
    counts as no. Windows are narrower than the segments here."""
    if device.type != "cuda" or dtype not in HALF:
        return True
    ends = torch.tensor([0, 5, 6, 15, 32], dtype=torch.int32, device=device)
    for call in dict.fromkeys(calls):
        window = None if call.window is None else 5
        half = partial(_varlen, ends=ends, longest=17, scaling=call.scaling, window=window)
        exact = partial(_one_by_one, ends=ends, dropout=0.0, scaling=call.scaling, window=window)
        if not _agrees(half, exact, call, device, dtype):
            return False
    return True


def rows_hold(calls: Iterable[Call], device: torch.device, dtype: torch.dtype) -> bool:
    """The same of rows that hold a text each, as within `rows_alone`: they too are attended to by a flash kernel."""
    for call in dict.fromkeys(calls):
        window = None if call.window is None else 5
        attend = partial(_alone_in_rows, dropout=0.0, scaling=call.scaling, window=window)
        if not _agrees(attend, attend, call, device, dtype):
            return False
    return True


def _agrees(half: Attend, exact: Attend, call: Call, device: torch.device, dtype: torch.dtype) -> bool:
    """Of 32 tokens: outputs and gradients in half precision near those in float32."""
    generator = torch.Generator(device).manual_seed(0)
    shapes = (call.heads, call.width), (call.key_heads, call.width), (call.key_heads, call.value_width)
    inputs = [torch.randn(1, n, 32, d, device=device, generator=generator).to(dtype) for n, d in shapes]
    try:
        found = _with_gradients(half, inputs)
    except (RuntimeError, ValueError, NotImplementedError):
        return False
    expected = _with_gradients(exact, [t.float() for t in inputs])
    near = [(a.float() - b).abs().max() <= 2e-2 * b.abs().max() for a, b in zip(found, expected, strict=True)]
    return all(map(bool, near))


@torch.enable_grad()
def _with_gradients(attend: Attend, inputs: Sequence[Tensor]) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in inputs]
    output = attend(*leaves)
    weights = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, leaves, weights)]


def segment_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """query: [1, H, T, d]; key, value: [1, Hkv, T, d], all segments one behind the other; result [1, T, H, d].

    Raises ValueError where the model's code does not hand over the lengths, or asks for what is not computed here.
    """
    ends = options.get("cu_seq_lens_q")
    if options.get("softcap") is not None or options.get("s_aux") is not None:
        raise ValueError("this attention is not served: soft-capping or sinks")
    if query.shape[2] != key.shape[2]:
        raise ValueError("segments have no cache")
    window = options.get("sliding_window")
    calls = None if torch.compiler.is_compiling() else _calls.get()
    if calls is not None:
        calls.append(Call(query.shape[1], key.shape[1], query.shape[3], value.shape[3], scaling, window))
    if ends is None and _alone.get() and attention_mask is None:
        return _alone_in_rows(query, key, value, dropout, scaling, window).transpose(1, 2).contiguous(), None
    if ends is None or query.shape[0] != 1:
        raise ValueError("segments are one row, with their lengths")
    if query.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
        half = torch.get_autocast_dtype("cuda")  # rotary embeddings leave queries and keys in float32
        query, key, value = query.to(half), key.to(half), value.to(half)
    if query.device.type == "cuda" and query.dtype in HALF and not dropout:
        return _varlen(query, key, value, ends, options["max_length_q"], scaling, window), None
    return _one_by_one(query, key, value, ends, dropout, scaling, window), None


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, dropout: float, scaling: float | None, window: int | None
) -> Tensor:
    outputs = []
    for start, stop in itertools.pairwise(ends.tolist()):
        q, k, v = (t[:, :, start:stop] for t in (query, key, value))
        outputs.append(_alone_in_rows(q, k, v, dropout, scaling, window))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _alone_in_rows(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None, window: int | None
) -> Tensor:
    """Causal attention of rows that hold a text each, within a window; heads may be shared."""
    length, band = query.shape[2], None
    if window is not None and window < length:
        at = torch.arange(length, device=query.device)
        back = at[:, None] - at
        band = (back >= 0) & (back < window)
    return F.scaled_dot_product_attention(
        query, key, value, band, dropout, is_causal=band is None, scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"window_size": (-1 if window is None else window - 1, 0), "scale": scaling}
    if _asked:
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
    found: Tensor = varlen_attn(q, k, v, ends, ends, longest, longest, **options)  # type: ignore[assignment]
    return found[None]
