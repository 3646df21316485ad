"""The inverse frequencies that a model turns its positions with, from its own class and by the formula."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from surgeon.arch.configuration import settings_of
from surgeon.arch.positions import ALL, reason_of
from surgeon.errors import SurgeonError
from surgeon.loading import quiet

KNOWN = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
_BUFFER = "inv_freq"


def inverse_frequencies(config: Mapping[str, Any], where: str) -> dict[str, list[float]]:
    """Kind of block (ALL where they share them) -> float32 values, as the modules of the model hold them.

    The model is built without memory; only its rotary modules are built with numbers. Empty where it has none.
    Raises SurgeonError where it cannot be built.
    """
    import torch
    from transformers import AutoModelForCausalLM

    found: dict[str, list[float]] = {}
    with quiet():
        try:
            settings = settings_of(config)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(settings)
            for module in model.modules():
                names = [n for n, _ in module.named_buffers(recurse=False) if _is_rotary(n)]
                if not names:
                    continue
                held = dict(type(module)(module.config).named_buffers(recurse=False))
                for name in names:
                    kind = name.removesuffix(_BUFFER).rstrip("_") or ALL
                    values = held[name].tolist()
                    if found.setdefault(kind, values) != values:
                        raise ValueError("its rotary modules differ from each other")
        except Exception as error:  # whatever the class raises
            raise SurgeonError(
                f"the rotary positions of this model cannot be computed: {reason_of(error)}",
                where,
                "compare config.json with that of the model's source",
            ) from error
    return found


def _is_rotary(name: str) -> bool:
    return name.endswith(_BUFFER) and "original" not in name


def formula_holds(values: Sequence[float], entry: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the values follow from the rotary parameters, and how far they are from it.

    Plain positions: base^(-2i/d), i = 0 .. d/2 - 1 (Su et al. 2021, arXiv 2104.09864, eq. 15; with another base:
    Xiong et al. 2023, arXiv 2309.16039, section 4.1), in float64 against the model's float32, up to its rounding:
    2^-23 (ln base + 2), because the exponent is rounded as well. linear divides all by the factor; yarn and llama3
    leave the fast ones and divide the slow ones by up to the factor; longrope divides each by its own; proportional
    has zeros where nothing is turned; dynamic begins as plain positions do.
    """
    base, kind, factor = float(entry["rope_theta"]), entry["rope_type"], float(entry.get("factor") or 1.0)
    d, bound = 2 * len(values), 2.0**-23 * (math.log(entry["rope_theta"]) + 2)
    turned = [value for value in values if value != 0] if kind == "proportional" else list(values)
    ratios = [base ** (-2 * i / d) / value if value else math.inf for i, value in enumerate(turned)]
    least, most = [1.0] * len(ratios), [1.0] * len(ratios)
    if kind in ("linear", "proportional"):
        least = most = [factor] * len(ratios)
    elif kind in ("yarn", "llama3"):
        most = [factor] * len(ratios)
    elif kind == "longrope":
        least = most = [float(x) for x in entry["short_factor"]]
    off = max(max(low / r, r / high) - 1 for r, low, high in zip(ratios, least, most, strict=True))
    worst = (
        f"{len(values)} frequencies, base {base:,g}, {kind}: off by {max(off, 0.0):.1g} at most (bound {bound:.1g})"
    )
    return kind in KNOWN and off <= bound, worst
