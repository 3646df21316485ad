"""Runs made from known laws, and the command on them."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
from run_cli import Done, surgeon

from surgeon.laws.kinds.dcpt import NAMES, dcpt
from surgeon.laws.law import Constants, Points, Runs

HEAD = "parameters,tokens,share,general,domain"
LINE = "1.8B,10B,0.9,2.9,1.7"

TRUE: Constants = {
    "general": dict(zip(NAMES, (1.2, 0.6, 0.35, 0.04, 1.2, 0.3, 0.12, 0.08, 0.7), strict=True)),
    "domain": dict(zip(NAMES, (0.9, 0.5, 0.3, 0.3, 0.3, 0.25, 0.16, 0.15, 0.5), strict=True)),
}
SHARES = (0.0, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0)  # nine, as in the paper


def grid(noise: float = 0.0, seed: int = 0, tokens: tuple[float, ...] = (1, 2, 5, 10, 20)) -> Runs:
    """The paper's three sizes by tokens by nine shares, with relative log-normal noise."""
    columns = np.array(list(product((0.5, 1.8, 4.0), tokens, SHARES))).T
    points = Points(columns[0] * 1e9, columns[1] * 1e9, columns[2])
    drawn = np.random.default_rng(seed)
    losses = {
        curve: values * np.exp(noise * drawn.normal(size=len(values)))
        for curve, values in dcpt().predict(TRUE, points).items()
    }
    return Runs(points, losses, {})


def write_csv(path: Path, runs: Runs, start: float | None = None) -> Path:
    columns = [runs.points.parameters, runs.points.tokens, runs.points.share, *runs.losses.values()]
    rows = [",".join(map(repr, row)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    extra = ("", "") if start is None else (",general_start", f",{start}")
    path.write_text("".join(f"{row}{end}\n" for row, end in [(HEAD, extra[0]), *((row, extra[1]) for row in rows)]))
    return path


def refused(done: Done, code: int, *words: str) -> None:
    """Three lines, nothing on stdout."""
    lines = done.err.splitlines()
    assert done.code == code and done.out == "", done
    assert [line.split(":")[0].strip() for line in lines] == ["error", "where", "mend"], done.err
    for word in words:
        assert word in done.err


def answer(*words: str) -> dict[str, object]:
    done = surgeon("mix", *words, "--json")
    assert done.code == 0, done.err
    found: dict[str, object] = json.loads(done.out)
    return found
