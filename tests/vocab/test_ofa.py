"""OFA: its low-rank rows against a plain SVD of real embeddings, and its weights against FOCUS's kin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from static_material import new_of, tokenizer_file, write_vec

from surgeon.errors import UsageError
from surgeon.progress import SILENT
from surgeon.vocab.inits.ofa import ofa
from surgeon.vocab.vec_file import read_vec

NUM_OLD, NUM_NEW, USABLE = 300, 40, range(3, 300)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    names = {f"▁w{i}": rng.normal(size=24) for i in range(NUM_OLD + NUM_NEW)}
    return write_vec(tmp_path_factory.mktemp("ofa") / "tokens.vec", names)


def rows(embed: torch.Tensor, vectors: Path, **options: object) -> torch.Tensor:
    new = new_of(NUM_OLD, [f"▁w{NUM_OLD + n}" for n in range(NUM_NEW)], [[5]] * NUM_NEW, USABLE)
    old = tokenizer_file([f"▁w{i}" for i in range(NUM_OLD)])
    return ofa(new, embed, old, SILENT, vectors=vectors, **options)  # type: ignore[arg-type]


def weights(vectors: Path, neighbours: int = 10, temperature: float = 0.1) -> np.ndarray:
    """[N, usable], as the paper's code computes them: the plain softmax of the ten largest cosines."""
    all_WS = read_vec(vectors).vectors.astype(np.float64)
    all_WS /= np.linalg.norm(all_WS, axis=1, keepdims=True)
    similar = all_WS[NUM_OLD:] @ all_WS[USABLE.start : USABLE.stop].T
    out = np.zeros_like(similar)
    for n, row in enumerate(similar):
        best = np.argsort(-row)[:neighbours]
        out[n, best] = np.exp(row[best] / temperature) / np.exp(row[best] / temperature).sum()
    return out


def test_full_rank_gives_the_weighted_means_of_the_rows(vectors: Path, stories: Path) -> None:
    embed = load_file(stories / "model.safetensors")["model.embed_tokens.weight"][:NUM_OLD]
    expected = weights(vectors) @ embed[3:].double().numpy()
    given = rows(embed, vectors, rank=embed.shape[1])
    assert given.dtype == torch.float64
    np.testing.assert_allclose(given.numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.material
@pytest.mark.parametrize("rank", [1, 32, 128, 200])
def test_a_rank_is_that_of_a_plain_svd_of_a_real_embedding(vectors: Path, material: Path, rank: int) -> None:
    """F = U and P = S V', as in the paper's code."""
    embed = load_file(material / "models" / "base" / "model.safetensors")["model.embed_tokens.weight"][:NUM_OLD]
    u, s, vh = np.linalg.svd(embed[3:].double().numpy(), full_matrices=False)
    expected = weights(vectors) @ u[:, :rank] @ (s[:rank, None] * vh[:rank])
    np.testing.assert_allclose(rows(embed, vectors, rank=rank).numpy(), expected, rtol=0, atol=1e-10)


def test_the_default_rank_is_half_the_width(vectors: Path, stories: Path) -> None:
    embed = load_file(stories / "model.safetensors")["model.embed_tokens.weight"][:NUM_OLD]
    assert torch.equal(rows(embed, vectors), rows(embed, vectors, rank=32))
    assert int(torch.linalg.matrix_rank(rows(embed, vectors))) == 32
    assert float((rows(embed, vectors) - rows(embed, vectors, rank=64)).abs().max()) > 1e-3


def test_one_cold_neighbour_is_the_nearest_row_itself(vectors: Path, stories: Path) -> None:
    embed = load_file(stories / "model.safetensors")["model.embed_tokens.weight"][:NUM_OLD]
    nearest = 3 + weights(vectors, 1).argmax(1)
    given = rows(embed, vectors, rank=64, neighbours=1)
    torch.testing.assert_close(given, embed[torch.from_numpy(nearest)].double(), rtol=0, atol=1e-10)
    cold = rows(embed, vectors, rank=64, temperature=1e-4)
    torch.testing.assert_close(cold, given, rtol=0, atol=1e-6)


def test_wrong_options_are_refused(vectors: Path, stories: Path) -> None:
    embed = load_file(stories / "model.safetensors")["model.embed_tokens.weight"][:NUM_OLD]
    for options, reason in [
        ({"rank": 0}, "not between 1 and the width 64"),
        ({"rank": 65}, "not between 1 and the width 64"),
        ({"neighbours": 0}, "above zero"),
        ({"temperature": -1.0}, "above zero"),
        ({"neighbours": 298}, "298 neighbours are asked for, 297 old tokens"),
    ]:
        with pytest.raises(UsageError, match=reason):
            rows(embed, vectors, **options)
