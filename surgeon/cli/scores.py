"""The scores of blocks for the terminal: a line a block, with its interval and a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("block", "score", "interval", "chosen in", "")
_WIDTH = 24
_PARTS = " ▏▎▍▌▋▊▉█"


def title(probe: Mapping[str, Any]) -> str:
    """What was measured on what, in a line."""
    return (
        f"{probe['selector']} ({probe['unit']}) on {probe['corpus']}: {probe['documents']} documents, "
        f"{probe['tokens']:,} tokens, {probe['loss']:.4f} nats a token"
    )


def rows(probe: Mapping[str, Any]) -> list[Sequence[str]]:
    """Block (* if copied), score, interval, share of the resamples that choose it, and a bar of the score."""
    scores = probe["scores"]
    least = min(0.0, *(s["score"] for s in scores))
    most = max(s["score"] for s in scores)
    return [
        (
            f"{s['block']}{' *' if s['block'] in probe['copied'] else ''}",
            f"{s['score']:.4g}",
            f"{s['low']:.4g} .. {s['high']:.4g}",
            f"{s['chosen']:.0%}",
            _bar((s["score"] - least) / (most - least or 1.0)),
        )
        for s in scores
    ]


def _bar(share: float) -> str:
    eighths = round(share * _WIDTH * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_PARTS[rest] if rest else "")).ljust(_WIDTH, "·")  # rich would strip spaces
