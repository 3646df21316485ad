"""Where the numbers of a run go while it runs: trackers, chosen by name, each given every line of metrics.jsonl."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from surgeon.errors import SurgeonError, UsageError
from surgeon.registry import Method, get

_GROUPS = {"tokens_per_second": "speed", "mfu": "speed", "memory_bytes": "memory"}


class Tracker(Protocol):
    """A place for numbers. What a method of the kind `tracker` gives: open, and to be ended."""

    @property
    def place(self) -> str:
        """Where they can be looked at, for people: a folder or an address."""
        ...

    def step(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl: a step, or the evaluation before the first one."""
        ...

    def end(self, ok: bool) -> None:
        """Everything is on its way; ok: the run was not broken off."""
        ...


def chosen(names: Sequence[str]) -> list[Method]:
    """The trackers of these names. Refuses one that is named twice, or whose package is not installed."""
    if len(set(names)) < len(names):
        raise UsageError("a tracker is named twice", "--track", "name each once")
    found = [get("tracker", name) for name in names]
    for method in found:
        package = method.trait("REQUIRES")
        if package is not None and not _is_installed(package):
            raise UsageError(
                f"the tracker {method.name!r} needs the package {package!r}, which is not installed",
                f"--track {method.name}",
                f"pip install {package}, or leave it out: metrics.jsonl has the same numbers",
            )
    return found


def opened(
    trackers: Sequence[tuple[Method, Mapping[str, Any]]], out: Path, first: int, settings: Mapping[str, Any]
) -> list[Tracker]:
    """The trackers of a run, open. first: steps done before. What was opened is ended where another cannot be."""
    supply = {"out": out.absolute(), "first": first, "settings": settings}
    found: list[Tracker] = []
    try:
        for method, options in trackers:
            try:
                found.append(method.call(supply, options))
            except OSError as error:
                raise SurgeonError(
                    f"the tracker {method.name!r} cannot be opened: {error.strerror or error}",
                    f"--track {method.name}",
                    "free some space, or leave it out: metrics.jsonl has the same numbers",
                ) from error
    except BaseException:
        for tracker in found:
            tracker.end(False)
        raise
    return found


def beside(out: Path, name: str) -> Path:
    """OUT.NAME beside the output, made if need be: where a tracker keeps its files."""
    folder = out.with_name(f"{out.name}.{name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SurgeonError(
            f"the tracker {name!r} cannot write there: {error.strerror}", str(folder), "move away what is there"
        ) from error
    return folder


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line by names that group them: train/loss, speed/mfu, eval/CORPUS/bits_per_byte.

    Numbers in a mapping go by both names (train/parts/kl); an absent number (null) has no entry.
    """
    found = dict(_numbers(line, leave=("step", "eval")))
    named = {f"{_GROUPS.get(key, 'train')}/{key}": value for key, value in found.items()}
    for evaluation in line.get("eval") or ():
        held = dict(_numbers(evaluation, leave=("step",)))
        named |= {f"eval/{evaluation['name']}/{key}": value for key, value in held.items()}
    return named


def _numbers(values: Mapping[str, Any], leave: Sequence[str] = ()) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if key in leave or isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            yield key, float(value)
        elif isinstance(value, Mapping):
            yield from ((f"{key}/{inner}", number) for inner, number in _numbers(value))


def _is_installed(package: str) -> bool:
    """A folder of that name where Python is started is no package (wandb leaves one behind): it has no origin."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None
