"""Windows as tensors, in the three forms in which documents of a row can be kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.data.pack import IGNORED, Window


@dataclass(frozen=True)
class Batch:
    """B rows of S tokens. ids, positions, labels: int64 [B, S] on the device; lengths: of the segments in order,
    over all rows (a segment never crosses a row). replay: bool [B, S], the tokens of replay corpora; None where
    nobody knows. scores: float64 [B, S], of the document of each label (see Window); None where nobody asked.
    segments: how many of them each window had, in order, however the batch is arranged."""

    ids: Tensor
    positions: Tensor
    labels: Tensor
    lengths: tuple[int, ...]
    replay: Tensor | None = None
    scores: Tensor | None = None
    segments: tuple[int, ...] = ()


def moved(held: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device. A GPU copies from pinned memory while it computes; from other memory it
    would first finish all that it was given."""
    return held.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else held.to(device)


def collate(windows: Sequence[Window], device: torch.device) -> Batch:
    """A row a window, as they are."""
    import numpy as np

    def tensor(rows: list[np.ndarray]) -> Tensor:
        return moved(torch.from_numpy(np.stack(rows).astype(np.int64)), device)

    ids = tensor([w.ids for w in windows])
    replay = moved(torch.tensor([w.replay for w in windows]), device)
    return Batch(
        ids,
        tensor([w.positions for w in windows]),
        tensor([w.labels for w in windows]),
        tuple(n for w in windows for n in w.lengths),
        replay[:, None].expand(ids.shape),
        _scores(windows, ids.shape[1], device),
        tuple(len(w.lengths) for w in windows),
    )


def _scores(windows: Sequence[Window], size: int, device: torch.device) -> Tensor | None:
    """Of a replay corpus, which has none, they are not numbers."""
    import numpy as np

    if all(w.scores is None for w in windows):
        return None
    unknown = np.full(size, np.nan)
    held = np.stack([unknown if w.scores is None else w.scores for w in windows])
    return torch.from_numpy(held).to(device, non_blocking=True)


def flat(batch: Batch) -> Batch:
    """All rows one behind the other in a single row of B * S tokens."""
    replay = None if batch.replay is None else batch.replay.reshape(1, -1)
    scores = None if batch.scores is None else batch.scores.reshape(1, -1)
    rows = (batch.ids.view(1, -1), batch.positions.view(1, -1), batch.labels.view(1, -1))
    return Batch(*rows, batch.lengths, replay, scores, batch.segments)


def by_segment(batch: Batch) -> Batch:
    """A row a segment, the rest of a row without labels; behind a text, padding cannot reach a causal model."""
    size = max(batch.lengths)
    count = len(batch.lengths)
    ids = batch.ids.new_zeros((count, size))
    labels = batch.labels.new_full((count, size), IGNORED)
    replay = None if batch.replay is None else batch.replay.new_zeros((count, size))
    scores = None if batch.scores is None else batch.scores.new_full((count, size), torch.nan)
    at = 0
    for row, length in enumerate(batch.lengths):
        ids[row, :length] = batch.ids.view(-1)[at : at + length]
        labels[row, :length] = batch.labels.view(-1)[at : at + length]
        if replay is not None and batch.replay is not None:
            replay[row, :length] = batch.replay.reshape(-1)[at : at + length]
        if scores is not None and batch.scores is not None:
            scores[row, :length] = batch.scores.reshape(-1)[at : at + length]
        at += length
    positions = torch.arange(size, device=ids.device).expand(count, -1)
    return Batch(ids, positions, labels, batch.lengths, replay, scores, batch.segments)
