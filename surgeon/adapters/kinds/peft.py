"""Any other adapter that PEFT has, with the keywords of its own configuration class."""

from __future__ import annotations

import json
from typing import Any

from surgeon.adapters.kind import Kind
from surgeon.errors import UsageError


def peft(*, type: str, config: str = "{}") -> Kind:
    """type: PEFT's name of the method, such as LOHA, LOKR, OFT, BOFT, HRA, IA3. config: its own keywords as JSON,
    such as '{"r": 8}'; targets and blocks are chosen as for every kind.

    Source: the documentation of PEFT, of the method.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    from surgeon.errors import did_you_mean

    prompts = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT"}
    known = sorted(str(t.value) for t in PEFT_TYPE_TO_TUNER_MAPPING if t.value not in prompts)
    if type.upper() not in known:
        raise UsageError(
            f"PEFT has no adapter of weights {type!r}", "--option type", did_you_mean(type.upper(), known)
        )
    try:
        keys: Any = json.loads(config)
    except ValueError as error:
        raise UsageError(f"config is not JSON: {error}", "--option config", "write '{\"r\": 8}'") from error
    if not isinstance(keys, dict):
        raise UsageError("config is not a JSON object", "--option config", "write '{\"r\": 8}'")
    chosen = PEFT_TYPE_TO_CONFIG_MAPPING[type.upper()]
    fields = getattr(chosen, "__dataclass_fields__", {})
    for key in keys:
        if key not in fields:
            raise UsageError(f"{type.upper()} has no keyword {key!r}", "--option config", did_you_mean(key, fields))
    return Kind(type.upper(), keys)
