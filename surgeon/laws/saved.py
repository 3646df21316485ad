"""A fitted law as a file: what `mix fit --out` writes and `mix predict` and `mix optimum` read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from surgeon.checkpoint.commit import write_atomically
from surgeon.checkpoint.config_json import dump_json, read_as
from surgeon.errors import SurgeonError


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quality(_Strict):
    """How near a curve is to its runs. r2: of the losses. huber: mean over the runs, of log residuals, delta 1e-3.
    largest_error: relative, of a single run."""

    r2: float
    huber: float
    largest_error: float


class Trend(_Strict):
    """Whether a curve only falls, only rises or turns over the fitted shares, at the fitted sizes and tokens.
    turns_at: the first share at which it turns, with where."""

    goes: Literal["falls", "rises", "turns"]
    turns_at: dict[str, float] | None = None


class Range(_Strict):
    """What the runs cover, each from least to largest. A prediction outside of it is told as one."""

    parameters: tuple[float, float]
    tokens: tuple[float, float]
    share: tuple[float, float]


class Fit(_Strict):
    """A law with its constants, the runs it stands on and how well it describes them."""

    format: Literal[1] = 1
    law: str
    options: dict[str, Any]
    runs: int
    constants: dict[str, dict[str, float]]
    quality: dict[str, Quality]
    over_share: dict[str, Trend]
    range: Range
    general_start: dict[int, float]


def read_fit(path: Path) -> Fit:
    """The fit in a file. Raises SurgeonError on a file that is none."""
    if not path.is_file():
        raise SurgeonError(
            "there is no such file", str(path), "write one with `surgeon mix fit RUNS --law LAW --out FILE`"
        )
    return read_as(
        path, Fit, "the file is not a fitted law", "write one with `surgeon mix fit RUNS --law LAW --out FILE`"
    )


def check_free(path: Path, force: bool) -> None:
    """Refuse a place for a fit that is taken or not there, before any work is done."""
    if path.is_dir() or path.is_symlink():
        raise SurgeonError("the output is a folder or a link", str(path), "give the path of a file")
    if path.exists() and not force:
        raise SurgeonError("the output exists already", str(path), "choose another path, or --force to replace it")
    if not path.absolute().parent.is_dir():
        raise SurgeonError("the output's folder is not there", str(path.absolute().parent), "make it first")


def write_fit(path: Path, fit: Fit) -> None:
    """The same fit gives the same bytes."""
    write_atomically(path, dump_json(fit.model_dump(mode="json")))
