"""The per-block lists that a configuration class of transformers derives from the block numbers, by its rules.

So that a config.json without them is read without transformers; the tests compare each rule with its class.
Source: the `__post_init__` of Qwen2Config, Qwen3Config, Gemma2Config, Gemma3TextConfig, Olmo3Config, SmolLM3Config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]
_FULL, _WINDOW = "full_attention", "sliding_attention"


def derived_list(model_type: str, key: str, config: Config, depth: int) -> list[Any] | None:
    """The list that stands for an absent `key`; None where no rule is written down here."""
    rule = _RULES.get((model_type, key))
    return None if rule is None else rule(config, depth)


def _every(config: Config, depth: int, step: int) -> list[Any]:
    """Windowed, but for every step-th block."""
    return [_WINDOW if (block + 1) % step else _FULL for block in range(depth)]


def _qwen(config: Config, depth: int) -> list[Any]:
    windowed = bool(config.get("use_sliding_window", False)) and config.get("sliding_window", 4096) is not None
    leading = config.get("max_window_layers", 28)
    return [_WINDOW if windowed and block >= leading else _FULL for block in range(depth)]


def _smollm3_rope(config: Config, depth: int) -> list[Any]:
    step = config.get("no_rope_layer_interval", 4)
    return [int((block + 1) % step != 0) for block in range(depth)]


def _smollm3(config: Config, depth: int) -> list[Any]:
    rope = config.get("no_rope_layers") or _smollm3_rope(config, depth)
    windowed = bool(config.get("use_sliding_window", False)) and config.get("sliding_window") is not None
    return [_WINDOW if windowed and not rope[block] else _FULL for block in range(depth)]


_RULES: dict[tuple[str, str], Callable[[Config, int], list[Any]]] = {
    ("qwen2", "layer_types"): _qwen,
    ("qwen3", "layer_types"): _qwen,
    ("gemma2", "layer_types"): lambda config, depth: _every(config, depth, 2),
    ("gemma3_text", "layer_types"): lambda config, depth: _every(
        config, depth, config.get("sliding_window_pattern", 6)
    ),
    ("olmo3", "layer_types"): lambda config, depth: _every(config, depth, 4),
    ("smollm3", "no_rope_layers"): _smollm3_rope,
    ("smollm3", "layer_types"): _smollm3,
}
