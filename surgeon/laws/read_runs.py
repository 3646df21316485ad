"""Finished trainings from a table (CSV or JSON lines) or from the folders of `surgeon cpt`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surgeon.data.numbers import parse_count
from surgeon.errors import SurgeonError, did_you_mean
from surgeon.laws.law import Points, Runs
from surgeon.number import number

COLUMNS = ("parameters", "tokens", "share", "general", "domain")
OPTIONAL = ("general_start",)


@dataclass(frozen=True, order=True)
class Run:
    """One training. share: of the domain in all tokens. Losses in nats a token; general_start before the training."""

    parameters: int
    tokens: int
    share: float
    general: float
    domain: float
    general_start: float | None = None


def read_runs(places: Sequence[Path], general: str | None, domain: str | None) -> Runs:
    """All runs of files and folders, sorted. general, domain: names of evaluations, for folders.

    Raises SurgeonError on what is not a run; on two runs of one model size that start at different general losses.
    """
    from surgeon.laws.trained import read_trained

    found: list[Run] = []
    for place in places:
        found += [read_trained(place, general, domain)] if place.is_dir() else read_table(place)
    if not found:
        raise SurgeonError("there are no runs", ", ".join(map(str, places)), "give at least one line or folder")
    found.sort(key=lambda r: (r.parameters, r.tokens, r.share, r.general, r.domain))
    starts: dict[int, float] = {}
    for run in found:
        if run.general_start is None:
            continue
        known = starts.setdefault(run.parameters, run.general_start)
        if known != run.general_start:
            raise SurgeonError(
                f"runs of {run.parameters:,} parameters start at general losses of {known} and {run.general_start}",
                "general_start",
                "give runs that start from one model a size, or leave the column out",
            )
    column = {name: np.array([getattr(r, name) for r in found], dtype=np.float64) for name in COLUMNS}
    points = Points(column["parameters"], column["tokens"], column["share"])
    return Runs(points, {"general": column["general"], "domain": column["domain"]}, starts)


def read_table(path: Path) -> list[Run]:
    """The runs of a .csv (with a header line) or .jsonl file; no column is ignored."""
    kinds = {".csv": _csv, ".jsonl": _jsonl}
    if path.suffix not in kinds:
        raise SurgeonError(
            "runs are neither a folder nor a table",
            str(path),
            "give a .csv or .jsonl file, or the folder of a cpt run",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SurgeonError("there is no such file", str(path), "check the path") from error
    except UnicodeDecodeError as error:
        raise SurgeonError("the file is not UTF-8", str(path), "write it as UTF-8") from error
    return [_run(row, f"{path}:{line}") for line, row in kinds[path.suffix](text, path)]


def _csv(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.reader(io.StringIO(text))
    header = [name.strip() for name in next(rows, [])]
    _check_columns(header, f"{path}:1")
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            raise SurgeonError(
                f"{len(row)} values under {len(header)} columns", f"{path}:{rows.line_num}", "mend the line"
            )
        values = dict(zip(header, (v.strip() for v in row), strict=True))
        yield rows.line_num, {k: v for k, v in values.items() if v or k not in OPTIONAL}


def _jsonl(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for at, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SurgeonError(f"the line is not JSON: {error}", f"{path}:{at}", "mend the line") from error
        if not isinstance(row, dict):
            raise SurgeonError("the line is no JSON object", f"{path}:{at}", f"give {', '.join(COLUMNS)}")
        _check_columns(list(row), f"{path}:{at}")
        yield at, row


def _check_columns(given: Sequence[str], where: str) -> None:
    for name in given:
        if name not in (*COLUMNS, *OPTIONAL):
            raise SurgeonError(f"there is no column {name!r}", where, did_you_mean(name, (*COLUMNS, *OPTIONAL)))
        if list(given).count(name) > 1:
            raise SurgeonError(f"the column {name!r} is there twice", where, "leave one out")
    for name in COLUMNS:
        if name not in given:
            raise SurgeonError(f"the column {name!r} is missing", where, f"needed: {', '.join(COLUMNS)}")


def _run(row: dict[str, Any], where: str) -> Run:
    """A checked row: counts as people write them, losses above 0, a share from 0 to 1."""
    values: dict[str, Any] = {}
    for name, value in row.items():
        try:
            if name in ("parameters", "tokens"):
                values[name] = parse_count(int(value) if isinstance(value, float) and value.is_integer() else value)
                good = values[name] > 0
            else:
                if isinstance(value, bool):
                    raise ValueError("a truth value is no number")
                values[name] = number(value)
                good = 0 <= values[name] <= 1 if name == "share" else values[name] > 0
        except (TypeError, ValueError):
            good = False
        if not good or not math.isfinite(values[name]):
            wanted = "a number from 0 to 1" if name == "share" else "a number above 0"
            raise SurgeonError(f"{name} is {value!r}", where, f"give {wanted}")
    return Run(**values)
