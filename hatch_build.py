"""Builds the compiled part of surgeon into its wheel, where there is a C compiler; without, the wheel is pure Python:
merges give the same bytes and take longer."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MODULE = "surgeon/ops/compile_sum.py"
_LIBRARY = "surgeon/ops/_fused_sum.so"


class CompileHook(BuildHookInterface):
    """For wheels. Only an editable one needs it in the tree, which else may be read-only, or be in use."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._folder = TemporaryDirectory()  # until the wheel is made
        target = Path(self.root if version == "editable" else self._folder.name) / _LIBRARY
        target.parent.mkdir(parents=True, exist_ok=True)
        missing = runpy.run_path(str(Path(self.root) / _MODULE))["compile_sum"](target)
        if missing:
            self.app.display_warning(f"merging is slower: {missing}")
            return
        if version != "editable":
            build_data["force_include"][str(target)] = _LIBRARY
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._folder.cleanup()
