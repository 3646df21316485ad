"""What objectives on scored documents share."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from surgeon.train.batch import Batch

Weight = Annotated[float, Field(ge=0, le=1)]


def score_of(batch: Batch) -> Tensor:
    """float64 [rows, tokens], of the document of each label; not a number where there is none (replay alone)."""
    if batch.scores is None:
        return torch.full_like(batch.labels, torch.nan, dtype=torch.float64)
    return batch.scores
