"""The table of vocab_quality.py: means and standard deviations over the seeds.

    python benchmarks/vocab_table.py RESULT.json ... [--texts a,b]

prints, of results that were kept, the ratio of each init to subword_mean over all texts and trainings (a text that
several files hold is that of the last one).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, geometric_mean, stdev
from typing import Any


def spread(values: list[float]) -> tuple[float, float]:
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def summary(records: Iterable[dict[str, Any]], trained: Iterable[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """text -> init -> number -> {"mean", "sd", "n"}; and of bits per byte (before training, and of what
    is `trained`) the ratio to subword_mean."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for record in records:
        for name, value in record["numbers"].items():
            found.setdefault(record["text"], {}).setdefault(record["init"], {}).setdefault(name, []).append(value)
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for text, inits in found.items():
        for init, numbers in inits.items():
            for name, values in numbers.items():
                mean, sd = spread(values)
                entry: dict[str, Any] = {"mean": mean, "sd": sd, "n": len(values)}
                reference = inits.get("subword_mean", {}).get(name)
                if reference and (name[0] == "0" or name.startswith(tuple(trained))):
                    entry["ratio"] = mean / fmean(reference)
                result.setdefault(text, {}).setdefault(init, {})[name] = entry
    return result


def show(result: dict[str, dict[str, dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    for text, inits in result.items():
        names = list(dict.fromkeys(name for numbers in inits.values() for name in numbers))
        table = Table("init", *names, title=f"{text}: bits per byte after steps; lost: nats a token of old text")
        for init, numbers in inits.items():
            cells = []
            for name in names:
                entry = numbers.get(name)
                cells.append("" if entry is None else f"{entry['mean']:.3f} ±{entry['sd']:.3f}")
            table.add_row(init, *cells)
        Console(width=60 + 16 * len(names)).print(table)


def across(result: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, tuple[float, int]]]:
    """init -> column -> the geometric mean of its ratios to subword_mean over the texts and what was trained, and of
    how many it is. The columns are steps of training, and counts of held-out tokens where there are several."""
    cells: dict[str, dict[str, list[float]]] = {}
    for inits in result.values():
        for init, numbers in inits.items():
            for name, entry in numbers.items():
                found = re.fullmatch(r"(?:.* )?(\d+( \(\d+ tokens\))?)", name)
                if found and "ratio" in entry:
                    cells.setdefault(init, {}).setdefault(found[1], []).append(entry["ratio"])
    return {init: {k: (geometric_mean(v), len(v)) for k, v in columns.items()} for init, columns in cells.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--texts", help="those of them [all]")
    args = parser.parse_args()
    held: dict[str, dict[str, dict[str, Any]]] = {}
    for path in args.results:
        for text, inits in json.loads(path.read_text(encoding="utf-8"))["texts"].items():
            if args.texts is None or text in args.texts.split(","):
                held.setdefault(text, {}).update(inits)
    for init, columns in across(held).items():
        print(init, "; ".join(f"{name}: {mean:.3f} of {count}" for name, (mean, count) in columns.items()), sep=": ")


if __name__ == "__main__":
    main()
