"""What methods say of a run before it begins, once: functions of (run, options) that their modules name in NOTE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.registry import Method
from surgeon.train.hook import Run


def notes(chosen: Mapping[str, list[tuple[Method, dict[str, Any]]]], run: Run) -> list[str]:
    """One of each method that has something to say."""
    said = []
    for held in chosen.values():
        for method, options in held:
            note = method.trait("NOTE")
            if note is not None and (text := note(run, options)):
                said.append(f"{method.name}: {text}")
    return said
