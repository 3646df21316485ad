"""Builds the compiled part of surgeon into its wheel, where there is a C compiler; without, the wheel is pure Python:
merges give the same bytes and take longer."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MODULE = "surgeon/ops/compile_sum.py"
_LIBRARY = "surgeon/ops/_fused_sum.so"


class CompileHook(BuildHookInterface):
    """For wheels, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        missing = runpy.run_path(str(Path(self.root) / _MODULE))["compile_sum"]()
        if missing:
            self.app.display_warning(f"merging is slower: {missing}")
            return
        build_data["artifacts"].append(_LIBRARY)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
