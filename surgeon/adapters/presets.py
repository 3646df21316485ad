"""Settings that belong together, by the job that they are for; what a person sets wins over them."""

from __future__ import annotations

from typing import Any

from surgeon.errors import UsageError, did_you_mean

# rank-stabilised LoRA of a high rank on all linear parts: H2LooP (arXiv 2603.11139) has rank 512; its alpha is not
# published: 16 makes the scale 1 at rank 256
_CPT_HIGH_RANK = {"kind": "lora", "rank": 256, "alpha": 16.0, "scaling": "rank-stabilized", "targets": "all-linear"}
PRESETS: dict[str, dict[str, Any]] = {
    "cpt-high-rank": _CPT_HIGH_RANK,
    "new-tokens": {"kind": "lora", "rank": 16, "alpha": 32.0, "targets": "all-linear", "new_rows": True},
    "new-blocks": {"kind": "lora", "rank": 64, "alpha": 64.0, "targets": "all-linear", "blocks": "new"},
    "moe": {"kind": "lora", "rank": 8, "alpha": 16.0, "targets": "all-linear,experts"},
}


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset; of the three that PEFT's documentation and papers leave open, the numbers are ours."""
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", "--preset", did_you_mean(name, PRESETS))
    return PRESETS[name]
