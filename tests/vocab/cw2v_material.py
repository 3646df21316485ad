"""Random rows, texts, tokens and convex matrices small enough for loops; a loss and the init on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from surgeon.progress import SILENT
from surgeon.vocab.inits.cw2v import cw2v, matrix
from surgeon.vocab.skipgram import Matrix, shared_negatives, summed_negatives
from surgeon.vocab.skipgram_text import Noise, Text
from surgeon.vocab.threads import spread
from surgeon.vocab.tokens import NewTokens

OLD, NEW, WIDTH = 40, 12, 10
SMALL: dict[str, Any] = {"candidates": 6, "batch": 256, "dimensions": 8}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def some_text(length: int = 900, seed: int = 1) -> Text:
    draw = rng(seed)
    weights = 1 / np.arange(1, OLD + NEW + 1)
    tokens = draw.permutation(OLD + NEW)[draw.choice(OLD + NEW, length, p=weights / weights.sum())]
    return Text.of(tokens, np.sort(draw.integers(0, 25, length)), tuple(range(OLD, OLD + NEW)))


def some_tokens(text: Text, held_back: int = 0) -> NewTokens:
    tokens = text.ids[text.codes]
    sequences = [part.tolist() for part in np.split(tokens, np.flatnonzero(np.diff(text.documents)) + 1)]
    pieces = tuple(tuple(row) for row in rng(2).integers(0, OLD, (NEW + held_back, 3)).tolist())
    ids = tuple(range(OLD, OLD + NEW + held_back))
    return NewTokens(tuple(f"t{i}" for i in ids), ids, pieces, tuple(range(OLD)), lambda: sequences)


def some_rows(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(OLD, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sparse_matrix(text: Text, old_VD: torch.Tensor, seed: int) -> Matrix:
    """Random logits over 5 random candidates and the mean."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, OLD, (NEW, 5), generator=draw)
    logits = torch.randn(NEW, 6, generator=draw, dtype=torch.float64)
    return matrix(old_VD, some_tokens(text), text, ids, logits, torch.float64)


def loss_of(
    inputs: Matrix, outputs: Matrix, loss: Any, drawn: np.ndarray, centre: np.ndarray, context: np.ndarray
) -> Any:
    every = torch.arange(len(inputs.text.ids))
    at = [torch.from_numpy(a) for a in (centre, context, drawn)]
    with spread() as run:
        return loss(inputs.rows(every, run), outputs.rows(every, run), *at, 3, run)


def drawn_for(name: str, text: Text, count: int) -> np.ndarray:
    return Noise(text.counts).draw((7,) if name == "shared" else (count, 3), rng(5))


LOSSES = {"shared": shared_negatives, "summed": summed_negatives}


def given(
    new: NewTokens, seed: int = 0, tied: bool = False, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    embed, head = some_rows(1, dtype), some_rows(2, dtype)
    return cw2v(new, embed, embed if tied else head, seed, SILENT, **SMALL | options)
