"""The results of demonstrations as text: the table of each, and docs/demonstrations.md of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import demonstration_arms
from demonstration_arms import DEMONSTRATIONS
from demonstration_scales import MATERIAL, Scale, of_material, quickstart

Values = Mapping[str, Mapping[str, Sequence[float]]]  # by arm and measure, one for each seed


def file_of(name: str, scale: Scale, folder: Path) -> Path:
    return folder / f"demonstrations-{name}-{scale.short}.json"


def printed(result: Mapping[str, Any]) -> str:
    """The table of a result and what was seen."""
    measures = list(next(iter(result["arms"].values())))
    rows = [["", *measures], ["base", *(f"{result['base'][m]:.3f}" if m in result["base"] else "" for m in measures)]]
    for arm, found in result["arms"].items():
        rows.append([arm, *(_range(v, ".3f") for v in found.values())])
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    cells = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    head = f"{result['name']}: {result['source']}\nexpected: {result['direction']}"
    how = f"{result['scale']}, {result['tokens']} tokens an arm, {result['seeds']} seeds; bits per byte, mean (range)"
    wide = max(len(c["claim"]) for c in result["claims"])
    claims = [f"{c['found']:8}  {c['claim']:{wide}}  {_range(c['difference'], '+.3f')}" for c in result["claims"]]
    seen = f"direction of the paper: {result['verdict']}"
    titles = f"{'':8}  {'claim':{wide}}  difference, seed by seed"
    return "\n".join([head, how, "", *cells, "", titles, *claims, *_same(result["arms"]), seen])


def _same(values: Values) -> list[str]:
    """A line for every two arms that came out alike to the last bit: one model, which says nothing of a claim."""
    pairs = combinations(values, 2)
    return [f"the same model at every seed: {a}, {b}" for a, b in pairs if values[a] == values[b]]


def _range(values: Sequence[float], form: str) -> str:
    return f"{fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def document(results: Sequence[Mapping[str, Any]], about: str) -> str:
    """docs/demonstrations.md: the tables as they were printed, of one model under those of the other."""
    scales = [quickstart(), of_material(Path("MATERIAL"))]
    held = {(r["name"], r["scale"]): r for r in results}
    parts = ["# Demonstrations", about, (demonstration_arms.__doc__ or "").split("\n\n")[-1].strip()]
    parts.append("\n".join(f"- {scale.settings()}" for scale in scales))
    parts.append(MATERIAL)
    parts.append(
        "The numbers are of two small models and few tokens: they say what happens there and no more. "
        "Less forgetting may be less learning: read `domain` beside `forgetting`, the change of `general`."
    )
    columns = " | ".join(f"found, {scale.short}" for scale in scales)
    rows = [f"| | expected | {columns} |", "|---|---|" + "---|" * len(scales)]
    for name, chosen in DEMONSTRATIONS.items():
        found = [held[name, s.name]["verdict"] if (name, s.name) in held else "not run" for s in scales]
        rows.append(f"| {name} | {chosen.about} | {' | '.join(found)} |")
    parts.append("\n".join(rows))
    for name in DEMONSTRATIONS:
        parts.append(f"## {name}")
        for scale in scales:
            if result := held.get((name, scale.name)):
                given = " --material MATERIAL" if scale.short == "8m" else ""
                command = f"python benchmarks/demonstrations.py {name} --seeds {result['seeds']}{given}"
                parts += [f"    {command}", f"```\n{printed(result)}\n```"]
    return "\n\n".join(parts) + "\n"
