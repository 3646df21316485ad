"""metrics.jsonl: one object a step, on disk as soon as the step is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgeon.checkpoint.commit import write_atomically


class MetricsLog:
    """Appends objects, each on a line. Opening it for a run that goes on from `step` drops what lies behind it."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in self.read(path) if line["step"] <= step] if step and path.is_file() else []
        write_atomically(path, "".join(_line(value) for value in kept))
        self._file = path.open("a", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All whole lines; a kill can leave the last one cut."""
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n")[:-1]]  # names may hold other ends of lines

    def write(self, value: dict[str, Any]) -> None:
        self._file.write(_line(value))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
