"""Event files for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeon.train.tracking import Tracker, beside, scalars

REQUIRES = "tensorboard"


def tensorboard(out: Path, first: int, settings: Mapping[str, Any], *, logdir: Path | None = None) -> Tracker:
    """Event files for TensorBoard in `logdir` [OUT.tensorboard, beside the output].

    A run that goes on from a step, or is begun anew, adds a file that tells TensorBoard to forget what came behind
    that step; no file is removed. Numbers are float32 there; metrics.jsonl has all digits.
    Source: torch.utils.tensorboard
    """
    return _Events(logdir or beside(out, "tensorboard"), first, settings)


class _Events:
    def __init__(self, folder: Path, first: int, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.place = str(folder)
        # the evaluation before training is of step 0 and belongs to a run that begins there
        self._writer = SummaryWriter(str(folder), purge_step=first + 1 if first else 0)
        shown = json.dumps(dict(settings), indent=1, ensure_ascii=False)
        self._writer.add_text("settings", "\n".join("    " + text for text in shown.splitlines()), first)

    def step(self, line: Mapping[str, Any]) -> None:
        for name, value in scalars(line).items():
            self._writer.add_scalar(name, value, line["step"])
        if line.get("eval"):
            self._writer.flush()

    def end(self, ok: bool) -> None:
        self._writer.close()
