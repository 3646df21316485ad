"""config.json as its class in transformers reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def settings_of(config: Mapping[str, Any]) -> Any:
    """The configuration object, with infinite numbers as save_pretrained writes them. Raises what the class raises."""
    from transformers import AutoConfig

    values = {key: _decoded(value) for key, value in config.items() if key != "model_type"}
    return AutoConfig.for_model(config["model_type"], **values)


def _decoded(value: Any) -> Any:
    """`{"__float__": "Infinity"}` is a number."""
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {key: _decoded(inner) for key, inner in value.items()}
    return [_decoded(inner) for inner in value] if isinstance(value, list) else value
