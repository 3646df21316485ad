"""What a config.json says, and what its class in transformers adds where it says nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from surgeon.arch.configuration import accepted_settings
from surgeon.checkpoint.no_weights import check_is_model
from surgeon.errors import SurgeonError
from surgeon.loading import quiet


def read_settings(config: Mapping[str, Any], where: str) -> Any:
    """The configuration object. Raises SurgeonError where transformers does not take it."""
    check_is_model(config, where)
    if not isinstance(config.get("model_type"), str):
        raise SurgeonError("config.json names no model_type", where, "restore config.json from the model's source")
    with quiet():
        return accepted_settings(config, where)


def values_of(settings: Any) -> dict[str, Any]:
    """Every value of a configuration object as config.json would spell it, said or not."""
    found: dict[str, Any] = json.loads(settings.to_json_string(use_diff=False))
    return found
