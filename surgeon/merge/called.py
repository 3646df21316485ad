"""What a model of a merge may be called by a person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from surgeon.errors import UsageError


def check_called(name: str, models: Sequence[str]) -> None:
    """Raise what `Members.of` raises of a name that none of these models can have, before they are there: neither as
    it is given, nor by its folder, nor by the end of its path."""
    halves = {half for text in models for half in (text, text.split("+")[0])}
    ends = {"+".join(Path(half).name for half in text.split("+")) for text in halves}
    given = "+".join(Path(half).name for half in name.split("+"))
    if name not in halves and Path(name).absolute() not in map(Path.absolute, map(Path, halves)) and given not in ends:
        raise not_called(name, sorted(ends))


def not_called(name: str, known: Sequence[str]) -> UsageError:
    return UsageError(f"there is no {name!r} in this merge", name, f"one of {', '.join(dict.fromkeys(known))}")
