"""What `--rope-scaling` says, as the rotary parameters of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.errors import UsageError
from surgeon.number import number

# of a scaling, not of the rotation itself
KEYS = (
    "type", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "short_factor",
    "long_factor", "low_freq_factor", "high_freq_factor", "mscale", "mscale_all_dim", "truncate",
)  # fmt: skip
FACTORED = ("linear", "dynamic", "yarn", "llama3")
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # of Llama 3.1 and 3.2, which differ in the factor
_FROM_A_LENGTH = ("yarn", "llama3")
# their numbers are of one length: another length needs others
TIED_TO_A_LENGTH = ("yarn", "dynamic", "longrope")
FORMS = "none, linear:F, dynamic:F, yarn:F or llama3:F, where F is the factor"


def parse_scaling(text: str) -> tuple[str, float]:
    """`none` -> ("default", 1), `yarn:4` -> ("yarn", 4). Raises UsageError."""
    name, colon, factor = text.partition(":")
    if text == "none":
        return "default", 1.0
    if name == "longrope":
        raise UsageError(
            "longrope has a searched factor for every frequency, which a word cannot give",
            f"--rope-scaling {text}",
            FORMS,
        )
    if name not in FACTORED:
        raise UsageError(f"there is no rotary scaling {name!r}", f"--rope-scaling {text}", f"write {FORMS}")
    try:
        found = number(factor) if colon else 0.0
    except ValueError:
        found = 0.0
    if not 1 <= found < float("inf"):
        raise UsageError(f"{name} needs a factor of 1 or more", f"--rope-scaling {text}", f"such as {name}:4")
    return name, found


def scaled(entry: Mapping[str, Any], text: str, original: int) -> dict[str, Any]:
    """Rotary parameters with this scaling in place of theirs. original: the length that the model was trained for,
    in tokens."""
    kind, factor = parse_scaling(text)
    new = {key: value for key, value in entry.items() if key not in KEYS} | {"rope_type": kind}
    if kind != "default":
        new["factor"] = factor
    if kind in _FROM_A_LENGTH:
        new["original_max_position_embeddings"] = original
    return new | (_LLAMA3 if kind == "llama3" else {})
