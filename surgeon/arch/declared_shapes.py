"""The shapes of a block's matrices by role, from the sizes that config.json says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
# classes whose head_dim is a number of its own where config.json does not say
_OWN_HEAD_DIM = ("qwen3", "qwen3_moe", "gemma2", "gemma3_text")
# classes that take as many key-value heads as there are heads where config.json does not say
_KEYS_AS_HEADS = ("llama", "phi3", "olmo", "olmo2", "olmo3")
# classes that know neither of the two
_PLAIN_HEADS = ("gpt2", "gpt_neox")


@dataclass(frozen=True)
class Sizes:
    """hidden, heads x head_dim, key-value heads x head_dim, inner (of the MLP, of one expert), number of experts."""

    hidden: int
    queries: int
    keys: int
    inner: int
    expert: int
    experts: int


def sizes_of(config: Mapping[str, Any]) -> Sizes | None:
    """The sizes; None where config.json leaves one of them to the default of its class, or it is not a number."""
    hidden: Any
    heads: Any
    keys: Any
    inner: Any
    model_type = config.get("model_type")
    is_gpt2 = model_type == "gpt2"
    hidden, heads = (
        config.get(k) for k in (("n_embd", "n_head") if is_gpt2 else ("hidden_size", "num_attention_heads"))
    )
    if not (_positive(hidden) and _positive(heads)):
        return None
    if model_type in _PLAIN_HEADS:
        head_dim, keys = hidden // heads, heads
    else:
        head_dim = config.get("head_dim") or (None if model_type in _OWN_HEAD_DIM else hidden // heads)
        keys = config.get("num_key_value_heads") or (heads if model_type in _KEYS_AS_HEADS else None)
    inner = (config.get("n_inner") or 4 * hidden) if is_gpt2 else config.get("intermediate_size")
    experts = config.get("num_local_experts", config.get("num_experts", 0))
    expert = config.get("moe_intermediate_size", inner)
    if not (all(map(_positive, (head_dim, keys, inner, expert))) and isinstance(experts, int)):
        return None
    return Sizes(hidden, heads * head_dim, keys * head_dim, inner, expert, experts)


def matrix_shape(role: str, s: Sizes) -> Shape | None:
    """[out, in] of a matrix with this role; None for norms, whose length differs between families."""
    return {
        "attention.q": (s.queries, s.hidden),
        "attention.k": (s.keys, s.hidden),
        "attention.v": (s.keys, s.hidden),
        "attention.o": (s.hidden, s.queries),
        "attention.qkv": (s.queries + 2 * s.keys, s.hidden),
        "mlp.gate": (s.inner, s.hidden),
        "mlp.up": (s.inner, s.hidden),
        "mlp.gate_up": (2 * s.inner, s.hidden),
        "mlp.down": (s.hidden, s.inner),
        "moe.router": (s.experts, s.hidden),
        "moe.expert.gate": (s.expert, s.hidden),
        "moe.expert.up": (s.expert, s.hidden),
        "moe.expert.down": (s.hidden, s.expert),
    }.get(role)


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
