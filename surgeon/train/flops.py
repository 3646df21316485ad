"""Floating point operations of a training token, and what share of a device's peak that is.

Per token at sequence length s, with matrices P_l of block l, head P_h = V h (counted whether tied or not) and
attention A = 4 s n_h d_h a block (without the causal half):
forward 2 (sum P_l + P_h) + L A; gradients of activations 2 P_h + sum over blocks from the lowest trained one of
2 P_l + 2 A (of that one only what stands behind a trained tensor); gradients of weights 2 P of every trained matrix.
Full training: 6 N + 12 L n_h d_h s.
Source: Chowdhery et al. 2022 (2204.02311), appendix B
"""

from __future__ import annotations

import re
from typing import Any

from surgeon.arch.roles import role_by_name
from surgeon.train.matrices import matrix_of, rows_of
from surgeon.train.trainable import Trainable, block_prefix

H200_PEAK = 989e12  # dense bfloat16, per second


def flops_per_token(model: Any, trainable: Trainable, seq_len: int) -> float:
    """Forward and backward of one token. Of experts only the share that a token visits counts."""
    config = model.config.get_text_config()
    inside = re.compile(re.escape(block_prefix(model)) + r"(\d+)\.(.*)")
    visited = _visited(config)
    blocks = [0.0] * config.num_hidden_layers
    weights = 0.0
    for name, parameter in model.named_parameters():
        match = inside.search(name)
        if parameter.ndim < 2 or (match is None and name not in trainable.parameters):
            continue
        size = parameter.numel() * (visited if ".experts." in name else 1.0)
        if match:
            blocks[int(match[1])] += size
            weights += 2 * size if name in trainable.parameters else 0.0
    head_module = model.get_output_embeddings()
    head = float(matrix_of(head_module).numel()) if head_module is not None else 0.0
    if head_module is not None and (matrix_of(head_module).requires_grad or rows_of(head_module) is not None):
        weights += 2 * head
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 4.0 * seq_len * config.num_attention_heads * head_dim
    forward = 2 * (sum(blocks) + head) + len(blocks) * attention
    lowest = len(blocks) if trainable.lowest_block is None else trainable.lowest_block
    backward = 2 * head + sum(2 * p + 2 * attention for p in blocks[lowest:])
    backward -= _not_needed(model, trainable, inside, lowest, attention, visited)
    return forward + backward + weights


def _not_needed(
    model: Any, trainable: Trainable, inside: re.Pattern[str], lowest: int, attention: float, visited: float
) -> float:
    """What gradients of activations would cost in the lowest trained block in front of its first trained tensor."""
    held = {name: match[2] for name, _ in model.named_parameters() if (match := _in_block(inside, name, lowest))}
    if not any(name in held for name in trainable.parameters) or _below(trainable, inside):
        return 0.0
    first = min(_place(part) for name, part in held.items() if name in trainable.parameters)
    cost = 2 * attention if first >= ATTENTION else 0.0
    for name, parameter in model.named_parameters():
        if name in held and parameter.ndim >= 2 and first >= _place(held[name]):
            cost += 2 * parameter.numel() * (visited if ".experts." in name else 1.0)
    return cost


def _in_block(inside: re.Pattern[str], name: str, number: int) -> re.Match[str] | None:
    match = inside.search(name)
    return match if match and int(match[1]) == number else None


def _below(trainable: Trainable, inside: re.Pattern[str]) -> bool:
    """Whether an embedding is trained, so that gradients go through all blocks."""
    return any("embed" in n or "wte" in n or "wpe" in n for n in trainable.parameters if not inside.search(n))


ATTENTION = 0.7  # the place of the scores and of the sum over values
_PLACES = (("attention.o", 1.0), ("attention", 0.0), ("mixer", 0.0), ("down", 3.0), ("mlp", 2.0), ("moe", 2.0))


def _place(part: str) -> float:
    """Where a part stands in the order in which a block computes."""
    role = role_by_name(part.removesuffix(".weight").removesuffix(".bias"))
    if role == "norm":
        if "q_norm" in part or "k_norm" in part:
            return 0.5
        if "post_feedforward" in part or "post_mlp" in part:
            return 3.5
        return (
            1.5 if any(word in part for word in ("post_attention", "ln_2", "pre_feedforward", "post_self")) else -0.5
        )
    return next((place for name, place in _PLACES if name in role), -0.5)


def utilisation(flops: float, tokens_per_second: float, device: str) -> float | None:
    """Model FLOPs utilisation of one H200; None on a CPU, whose peak is not known."""
    return flops * tokens_per_second / H200_PEAK if device == "cuda" else None


def _visited(config: Any) -> float:
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    chosen = getattr(config, "num_experts_per_tok", None)
    return chosen / experts if experts and chosen else 1.0
