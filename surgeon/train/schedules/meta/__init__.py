"""Schedules over a sequence of stages: a stage's own schedule, its peak lowered by how many came before."""

from __future__ import annotations

import dataclasses
import pkgutil

from surgeon.errors import UsageError, did_you_mean
from surgeon.registry import Method, get


def members() -> list[str]:
    """The files of this folder, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def named(name: str) -> Method:
    """meta:NAME. Raises UsageError."""
    if name not in members():
        raise UsageError(
            f"there is no schedule meta:{name}", "surgeon methods schedule", did_you_mean(name, members())
        )
    return dataclasses.replace(get("schedule", f"{__name__}.{name}:{name}"), name=f"meta:{name}")
