"""A search for the terminal: the Pareto front with the choice, and what there would have been without a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def title(search: Mapping[str, Any]) -> str:
    """What was minimised, and what it took, in a line."""
    read = ", ".join(f"{c['name']} ({c['tokens']:,} tokens)" for c in search["corpora"])
    kept = "".join(f"; {name} kept at {weight:g}" for name, weight in search["fixed"].items())
    return f"weights by {search['objective']} in {search['evaluations']} evaluations, nats per token on {read}{kept}"


def columns(search: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "",
        *search["models"],
        *(f"loss: {c['name']}" for c in search["corpora"]),
        *(f"regret: {c['name']}" for c in search["corpora"]),
    )


def rows(search: Mapping[str, Any]) -> list[Sequence[str]]:
    """The front, from the lowest loss on the first corpus to the highest; then the named points off it."""
    found = sorted(enumerate(search["points"]), key=lambda entry: (entry[1]["losses"], entry[1]["weights"]))
    shown = [entry for entry in found if entry[1]["front"] or entry[0] == search["choice"]]
    return [_row(search, number, point) for number, point in [*shown, *_rest(search, shown)]]


def _rest(search: Mapping[str, Any], shown: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    there = {number for number, _ in shown}
    return [(n, point) for n, point in enumerate(search["points"]) if point["label"] and n not in there]


def _row(search: Mapping[str, Any], number: int, point: Mapping[str, Any]) -> tuple[str, ...]:
    words = ["chosen"] * (number == search["choice"]) + ["front"] * point["front"]
    return (
        ", ".join([*words, *([point["label"]] if point["label"] else [])]),
        *(f"{weight:.4g}" for weight in point["weights"]),
        *(f"{loss:.4f}" for loss in point["losses"]),
        *(f"{regret:.4f}" for regret in point["regrets"]),
    )
