"""Puts a card beside an output, and tells one that nobody has touched since."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeon.card.front import CARD, read_front
from surgeon.card.text import Shaped, card_text
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage


def made_card(folder: Path, out: Path, lineage: Lineage) -> str:
    """The card of the output in `folder`, which is to lie at `out`; its parents are where the lineage says, seen from
    there."""
    held = Checkpoint.open(folder)
    place = out.absolute().resolve()  # may not be there yet: a path through it has to be folded before it is followed
    fronts = [read_front(Path(os.path.normpath(place / parent.path))) for parent in lineage.parents]
    return card_text(lineage, held.config, held.tensors, fronts)


def write_card(folder: Path, out: Path, lineage: Lineage) -> None:
    """README.md of the output in `folder`. The lineage does not answer for it: people go on writing it."""
    (folder / CARD).write_text(made_card(folder, out, lineage), encoding="utf-8")


def card_in_place(
    folder: Path, lineage: Lineage, config: Mapping[str, Any], tensors: Mapping[str, Shaped]
) -> str | None:
    """The card of a folder that becomes another model in its place; None where a card lies there that is not, letter
    by letter, the one of the model before: somebody wrote it."""
    front = read_front(folder)
    if (folder / CARD).exists():
        before = Checkpoint.open(folder)
        own = before.lineage
        if own is None:
            return None
        # its own head tells what its parents' cards did, but for licences that they do not have in common
        own_words = card_text(own, before.config, before.tensors, [front] * len(own.parents))
        if _text(folder) not in (own_words, made_card(folder, folder, own)):
            return None
    return card_text(lineage, config, tensors, [front] * len(lineage.parents))


def _text(folder: Path) -> str:
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
