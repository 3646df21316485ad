"""What cpt_gpu.py compares on a model: by name, the flags of surgeon or the settings of transformers' Trainer."""

from __future__ import annotations

import importlib.util
from typing import Any

from cpt_gpu_models import DEEP

# (words of the way, what surgeon trains); a regular expression of blocks is what `new-blocks` comes to
PARTS = {
    "surgeon all": "full",
    "surgeon 4 spread": r"layers\.(4|9|14|19)\.",
    "surgeon upper 4": r"layers\.(16|17|18|19)\.",
}
# with it in the graph, models that torch 2.11 compiled ended in illegal memory accesses or not in time (Liger-Kernel
# issue 916 is of the kind), and where labels are ignored its compiled sum is wrong (pull request 1338)
NOT_ITS_LOSS = {"fused_linear_cross_entropy": False}


def ways(name: str) -> dict[str, dict[str, Any]]:
    if name == DEEP:
        return {way: {"train": train} for way, train in PARTS.items()}
    found: dict[str, dict[str, Any]] = {
        "surgeon": {},
        "surgeon FA2": {"without": "flash_attn_interface"},
        "surgeon concat": {"flags": ["--packing", "concat"]},
        "surgeon eager": {"flags": ["--no-compile"]},
        "Trainer": {"compile": False, "liger": False},
        "Trainer compile": {"compile": True, "liger": False},
        "Trainer regional": {"compile": "regional", "liger": False},
    }
    if importlib.util.find_spec("liger_kernel"):
        found["Trainer liger"] = {"compile": False, "liger": True}
        found["Trainer compile liger"] = {"compile": True, "liger": True}
        found["Trainer regional liger"] = {"compile": "regional", "liger": True}
        found["Trainer compile liger parts"] = {"compile": True, "liger": True, "liger_parts": NOT_ITS_LOSS}
    return found
