"""The table of vocab_quality.py: means and standard deviations over the seeds."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean, stdev
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
