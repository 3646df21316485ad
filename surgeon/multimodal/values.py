"""What a config.json says, and what its class in transformers adds where it says nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from surgeon.arch.configuration import settings_of
from surgeon.errors import SurgeonError
from surgeon.loading import quiet


def read_settings(config: Mapping[str, Any], where: str) -> Any:
    """The configuration object. Raises SurgeonError where transformers does not take it."""
    from huggingface_hub.errors import StrictDataclassError

    if not isinstance(config.get("model_type"), str):
        raise SurgeonError("config.json names no model_type", where, "restore config.json from the model's source")
    try:
        with quiet():
            return settings_of(config)
    except (StrictDataclassError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise SurgeonError(
            f"transformers does not accept this config.json: {str(error).strip().splitlines()[-1].strip()}",
            where,
            "compare it with the config.json of the model's source",
        ) from error


def values_of(settings: Any) -> dict[str, Any]:
    """Every value of a configuration object as config.json would spell it, said or not."""
    found: dict[str, Any] = json.loads(settings.to_json_string(use_diff=False))
    return found
