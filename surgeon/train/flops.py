"""Floating point operations of a training token, and what share of a device's peak that is.

Per token at sequence length s, with matrices P_l of block l, head P_h = V h (counted whether tied or not) and
attention A_l = 4 s n_h d_h (without the causal half; more of it in `attention_flops`):
forward 2 (sum P_l + P_h) + sum A_l; gradients of activations 2 P_h + sum over blocks from the lowest trained one of
2 P_l + 2 A_l (of that one only what stands behind a trained tensor); gradients of weights 2 P of every trained matrix.
Full training: 6 N + 12 L n_h d_h s.
Source: Chowdhery et al. 2022 (2204.02311), appendix B
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from surgeon.arch.roles import role_by_name
from surgeon.train.attention_flops import UNUSED, mixing_flops
from surgeon.train.matrices import matrix_of, rows_of
from surgeon.train.trainable import BELOW, Trainable, block_prefix

_COUNTS = (
    ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"),
)
H200_PEAK = 989e12  # dense bfloat16, per second


def flops_per_token(model: Any, trainable: Trainable, seq_len: int) -> float:
    """Forward and backward of one token. Of experts only the share that a token visits counts."""
    config = model.config.get_text_config()
    inside = re.compile(re.escape(block_prefix(model)) + r"(\d+)\.(.*)")
    visited = _visited(config)
    blocks = [0.0] * config.num_hidden_layers
    parts: dict[int, dict[str, Tensor]] = {}
    weights = 0.0
    for name, parameter in model.named_parameters():
        match = inside.search(name)
        if match is None or parameter.ndim < 2 or UNUSED.search(name):
            continue
        number = int(match[1])
        parts.setdefault(number, {})[match[2]] = parameter
        size = _size(name, parameter, visited)
        blocks[number] += size
        weights += 2 * size if name in trainable.parameters else 0.0
    head_module = model.get_output_embeddings()
    head = float(matrix_of(head_module).numel()) if head_module is not None else 0.0
    if head_module is not None and (_holds(trainable, matrix_of(head_module)) or rows_of(head_module) is not None):
        weights += 2 * head
    mixing = mixing_flops(config, parts, seq_len, visited)
    forward = 2 * (sum(blocks) + head) + sum(mixing)
    lowest = len(blocks) if trainable.lowest_block is None else trainable.lowest_block
    alone = head_module is not None and all(p is matrix_of(head_module) for p in trainable.parameters.values())
    backward = (0.0 if alone else 2 * head) + 2 * sum(blocks[lowest:]) + 2 * sum(mixing[lowest:])
    if lowest < len(blocks):
        backward -= _not_needed(model, trainable, inside, lowest, mixing[lowest], visited)
    return forward + backward + weights


def _holds(trainable: Trainable, matrix: Tensor) -> bool:
    """Whether it is trained there; the model may stand for another set."""
    return any(p is matrix for p in trainable.parameters.values())


def _not_needed(
    model: Any, trainable: Trainable, inside: re.Pattern[str], lowest: int, attention: float, visited: float
) -> float:
    """What gradients of activations would cost in the lowest trained block in front of its first trained tensor."""
    held = {name: match[2] for name, _ in model.named_parameters() if (match := _in_block(inside, name, lowest))}
    if not any(name in held for name in trainable.parameters) or _below(trainable, inside):
        return 0.0
    trained = [part for name, part in held.items() if name in trainable.parameters]
    first = min(map(_place, trained))
    cost = attention * _products_spared(trained, first) / 2
    for name, parameter in model.named_parameters():
        if name in held and parameter.ndim >= 2 and first >= _place(held[name]) and not UNUSED.search(name):
            cost += 2 * _size(name, parameter, visited)
    return cost


def _products_spared(trained: Sequence[str], first: float) -> int:
    """Of the four products of attention's way back (scores, queries, keys, values) those that nothing asks for."""
    if first >= ATTENTION or first < 0:
        return 4 if first >= ATTENTION else 0
    stems = [_stem(part) for part in trained if _place(part) < ATTENTION]
    roles = {"attention." + stem.split(".")[-1][:1] if "_norm" in stem else role_by_name(stem) for stem in stems}
    kinds = [{w for w in "qkv" if w in role.removeprefix("attention.").split("_")[0]} for role in roles]
    if not all(role.startswith("attention.") and kind for role, kind in zip(roles, kinds, strict=True)):
        return 0
    asked = set().union(*kinds)
    return 4 - len(asked) - bool(asked & {"q", "k"})


def _stem(part: str) -> str:
    """A part without what an adapter adds to its name, and without its leaf."""
    return part.split(".lora_")[0].removesuffix(".weight").removesuffix(".bias").removesuffix(".base_layer")


def _in_block(inside: re.Pattern[str], name: str, number: int) -> re.Match[str] | None:
    match = inside.search(name)
    return match if match and int(match[1]) == number else None


def _below(trainable: Trainable, inside: re.Pattern[str]) -> bool:
    """Whether an embedding is trained, so that gradients go through all blocks."""
    return any(BELOW.search(n) for n in trainable.parameters if not inside.search(n))


ATTENTION = 0.7  # the place of the scores and of the sum over values
_PLACES = (("attention.o", 1.0), ("attention", 0.0), ("mixer", 0.0), ("down", 3.0), ("mlp", 2.0), ("moe", 2.0))


def _place(part: str) -> float:
    """Where a part stands in the order in which a block computes."""
    if ".lora_B" in part:  # behind the other half
        return _place(_stem(part)) + 0.1
    part = _stem(part)
    role = role_by_name(part)
    if role == "norm":
        if "q_norm" in part or "k_norm" in part:
            return 0.5
        if "post_feedforward" in part or "post_mlp" in part:
            return 3.5
        return (
            1.5 if any(word in part for word in ("post_attention", "ln_2", "pre_feedforward", "post_self")) else -0.5
        )
    if role == "other" and part.startswith(("mixer.", "mamba.")):
        return 0.5  # between the way in and the way out
    return next((place for name, place in _PLACES if name in role), -0.5)


def utilisation(flops: float, tokens_per_second: float, device: str) -> float | None:
    """Model FLOPs utilisation of one H200; None on a CPU, whose peak is not known."""
    return flops * tokens_per_second / H200_PEAK if device == "cuda" else None


def _size(name: str, parameter: Tensor, visited: float) -> float:
    """Elements that a token meets. Experts are called so, or lie behind one another in one tensor; the filters of a
    convolution do as well, with one channel each."""
    stacked = parameter.ndim == 3 and parameter.shape[1] > 1
    return parameter.numel() * (visited if ".experts." in name or stacked else 1.0)


def _visited(config: Any) -> float:
    experts, chosen = (next(filter(None, (getattr(config, n, None) for n in names)), None) for names in _COUNTS)
    return chosen / experts if experts and chosen else 1.0
