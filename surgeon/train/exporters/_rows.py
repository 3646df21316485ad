"""The windows of a run as rows of tokens, for trainers that take data already tokenised."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surgeon.data.mixture import Batches
from surgeon.data.pack import IGNORED, Window


def write_rows(path: Path, mixture: Batches, steps: int) -> None:
    """Every segment of every window of `steps` steps, in order, a JSON line each: input_ids, attention_mask, labels.

    Labels stand at their own token (the model shifts them), IGNORED where nothing is learned. The first token of a
    segment has none: in a packed row it would be asked of the end of the segment before it.
    """
    with path.open("w", encoding="utf-8") as file:
        for step in range(steps):
            for window in mixture.batch(step):
                for ids, labels in segments(window):
                    row = {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), "labels": labels.tolist()}
                    file.write(json.dumps(row, separators=(",", ":")) + "\n")


def segments(window: Window) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """(ids, labels at their own token) of each segment, without padding."""
    at = 0
    for length in window.lengths:
        if at >= window.num_tokens:
            return
        labels = np.concatenate([[IGNORED], window.labels[at : at + length - 1]]).astype(np.int64)
        yield window.ids[at : at + length], labels
        at += length
