"""Floating point operations of the mixing of tokens, block by block: what is no product with a weight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from surgeon.arch.roles import role_by_name

_LINEAR = "linear_attention"
_WITHOUT = (_LINEAR, "mamba", "conv", "recurrent", "moe", "mlp")  # kinds of blocks that do not attend
_CHUNK = 64  # tokens of a chunk of linear attention: in transformers, and in the kernels it takes on a GPU
# of decoders that were half of a pair: an encoder's states are not given, so nothing is computed
UNUSED = re.compile(r"(^|\.)(encoder_attn|crossattention)\b")


def mixing_flops(config: Any, parts: Mapping[int, Mapping[str, Tensor]], seq_len: int, visited: float) -> list[float]:
    """Of one token's forward pass, by block. Every token counts all `seq_len` (no causal half, no window).

    parts: the parameters of each block by their name inside it. visited: the share of experts that a token visits.
    Scores and sums over values are 2 s n_h (d_qk + d_v), widths by the weights; a block that keeps a state in place
    of them has gated delta rules in chunks (Yang et al. 2024, 2412.06464), or nothing that is counted here.
    """
    depth = config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or [""] * depth
    found = []
    for number in range(depth):
        if kinds[number] == _LINEAR:
            found.append(_delta_rule(config))
        elif kinds[number] in _WITHOUT:
            found.append(0.0)
        else:
            known = bool(kinds[number]) and number in parts
            found.append(2.0 * seq_len * sum(_widths(config, parts.get(number, {}), visited, known)))
    return found


def _widths(config: Any, parts: Mapping[str, Tensor], visited: float, known: bool) -> tuple[float, float]:
    """(n_h d_qk, n_h d_v) of a block's attention; zeros where it has none. known: whether it is known to attend."""
    held: dict[str, tuple[str, Tensor]] = {}
    for name, parameter in parts.items():
        if parameter.ndim >= 2 and not UNUSED.search(name) and "lora_" not in name:
            stem = name.removesuffix(".weight").removesuffix(".base_layer")
            held.setdefault(role_by_name(stem), (name, parameter))
    if "attention.o" not in held:
        heads = getattr(config, "num_attention_heads", None) or 0
        width = float(heads and heads * (getattr(config, "head_dim", None) or config.hidden_size // heads))
        return (width, width) if known or "attention.q" in held else (0.0, 0.0)
    name, output = held["attention.o"]
    value = output.numel() / config.hidden_size * (visited if ".experts." in name else 1.0)
    query = held.get("attention.q_b") or held.get("attention.q")
    if query is None or "attention.kv_b" not in held:
        return value, value
    return float(query[1].shape[0]), value  # with compressed keys a head of them is wider than one of values


def _delta_rule(config: Any) -> float:
    heads = getattr(config, "linear_num_value_heads", None)
    if not heads:
        return 0.0
    key, value = config.linear_key_head_dim, config.linear_value_head_dim
    products = 2 * _CHUNK * (2 * key + value) + 6 * key * value
    return heads * (products + 4 / 3 * _CHUNK * (key + value))  # a solve's gradient is a solve and a product
