"""What a batch says of each of its documents and windows: those of the tokens that are learned."""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.data.pack import IGNORED
from surgeon.train.batch import Batch


def documents(batch: Batch) -> tuple[Tensor, int]:
    """(the number of the document of each token, int64 [tokens]; how many there are). A document is a segment: the
    part of it that is in one window; padding is one too, without labels."""
    device = batch.labels.device
    count = len(batch.lengths)
    if batch.labels.numel() != sum(batch.lengths):  # a row a document, and padding behind it
        return torch.arange(count, device=device).repeat_interleave(batch.labels.shape[1]), count
    lengths = torch.tensor(batch.lengths, device=device)
    return torch.arange(count, device=device).repeat_interleave(lengths, output_size=batch.labels.numel()), count


def windows(batch: Batch) -> tuple[Tensor, int]:
    """(the number of the window of each token, int64 [tokens]; how many there are), however the batch is arranged."""
    device = batch.labels.device
    number = len(batch.segments)
    segments = torch.tensor(batch.segments, device=device)
    of_documents = torch.arange(number, device=device).repeat_interleave(segments, output_size=len(batch.lengths))
    return of_documents[documents(batch)[0]], number


def means(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(mean of [tokens, H] over the tokens of each document that have a label, [D, H]; how many those are, [D]).

    0 for a document without labels. Type and gradients are those of the values.
    """
    counts = batch.labels.reshape(-1) != IGNORED
    numbers, count = documents(batch)
    labels = values.new_zeros(count).index_add(0, numbers, counts.to(values.dtype))
    sums = values.new_zeros(count, values.shape[1]).index_add(0, numbers, values * counts[:, None])
    return sums / labels.clamp(min=1)[:, None], labels
