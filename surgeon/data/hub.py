"""Corpora through the datasets library: `hf:org/dataset[:config][@split]`, or `hf:FOLDER` that the library reads."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError, UsageError

PREFIX = "hf:"
_FORM = re.compile(
    r"hf:(?P<name>[^:@]+)(?::(?P<config>[^:@]+))?(?:@(?P<split>[^:@]+(?:\[[^\]]*\])?))?(?::(?P<weight>\d+(?:\.\d+)?))?"
)
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_BATCH = 1024


@dataclass(frozen=True)
class HubDataset:
    """A dataset by name; split: None for the only one it has."""

    name: str
    config: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        return (
            PREFIX + self.name + (f":{self.config}" if self.config else "") + (f"@{self.split}" if self.split else "")
        )


def parse_hub(text: str) -> tuple[HubDataset, float | None]:
    """The dataset and its weight, if any, from `hf:org/dataset[:config][@split[:WEIGHT]]`."""
    match = _FORM.fullmatch(text)
    form = "write hf:org/dataset[:config][@split[:WEIGHT]]"
    if match is None:
        raise UsageError("this is no dataset's name", text, form)
    name, config, split, weight = match.group("name", "config", "split", "weight")
    if split is None and (weight is not None or _NUMBER.fullmatch(config or "")):
        raise UsageError(
            "a number without a split may be a configuration or a weight",
            text,
            f"{form}, such as hf:org/dataset@train:0.5",
        )
    return HubDataset(name, config, split), None if weight is None else float(weight)


def hub_files(dataset: HubDataset) -> list[Path]:
    """The Arrow files that hold the dataset on this machine, in order; it is loaded if it is not there."""
    return [Path(held["filename"]) for held in _load(dataset).cache_files]


def hub_records(dataset: HubDataset, fields: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of every row. Of the columns those of `fields` are read; the others are in a record as None:
    the library would decode pictures and sound."""
    loaded = _load(dataset)
    unread, row = dict.fromkeys(loaded.column_names), 0
    wanted = [name for name in loaded.column_names if name in fields]
    if not wanted:
        yield from ((f"{dataset}: row {number}", dict(unread)) for number in range(1, len(loaded) + 1))
        return
    for batch in loaded.select_columns(wanted).iter(_BATCH):
        for values in zip(*batch.values(), strict=True):
            row += 1
            yield f"{dataset}: row {row}", unread | dict(zip(batch, values, strict=True))


@lru_cache(maxsize=8)
def _load(dataset: HubDataset) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SurgeonError(
            "reading a dataset of the hub needs datasets, which is not installed",
            str(dataset),
            "pip install 'surgeon[hf]'",
        ) from error
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    talk = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    levels = [logger.level for logger in talk]
    for logger in talk:  # their warnings of every retry; what comes of it is raised
        logger.setLevel(logging.ERROR)
    try:
        found = datasets.load_dataset(dataset.name, dataset.config, split=dataset.split)
    # the library raises errors of a dozen kinds of its own and of others for what is not there, or is broken
    except Exception as error:
        reason = next((line.strip() for line in str(error).split("\n") if line.strip()), type(error).__name__)
        raise SurgeonError(
            f"the dataset {dataset.name} cannot be loaded: {reason}",
            str(dataset),
            "check its name, configuration and split; offline, fetch it once where there is a network, or give files",
        ) from error
    finally:
        for logger, level in zip(talk, levels, strict=True):
            logger.setLevel(level)
        if shown:
            datasets.enable_progress_bars()
    if dataset.split is None:
        if len(found) > 1:
            raise SurgeonError(
                f"the dataset has the splits {', '.join(found)}",
                str(dataset),
                f"choose one: {dataset}@{next(iter(found))}",
            )
        found = next(iter(found.values()))
    return found.with_format(None)
