"""config.json as its class in transformers reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.errors import SurgeonError


def settings_of(config: Mapping[str, Any]) -> Any:
    """The configuration object, with infinite numbers as save_pretrained writes them. Raises what the class raises."""
    from transformers import AutoConfig

    values = {key: _decoded(value) for key, value in config.items() if key != "model_type"}
    return AutoConfig.for_model(config["model_type"], **values)


def accepted_settings(config: Mapping[str, Any], where: str) -> Any:
    """The same; raises SurgeonError where the class does not accept what config.json says."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        return settings_of(config)
    except (StrictDataclassError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise SurgeonError(
            f"transformers does not accept this config.json: {str(error).strip().splitlines()[-1].strip()}",
            where,
            "compare it with the config.json of the model's source",
        ) from error


def _decoded(value: Any) -> Any:
    """`{"__float__": "Infinity"}` is a number."""
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {key: _decoded(inner) for key, inner in value.items()}
    return [_decoded(inner) for inner in value] if isinstance(value, list) else value
