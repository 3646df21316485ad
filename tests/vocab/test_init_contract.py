"""What every init promises, whoever wrote it: each file of surgeon/vocab/inits is held to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from static_material import tokenizer_file, write_vec
from vocab_models import body_folder, donor_folder

from surgeon import registry
from surgeon.errors import SurgeonError, UsageError
from surgeon.progress import SILENT
from surgeon.vocab.aligned import Cut
from surgeon.vocab.body import Body
from surgeon.vocab.hull import Combination
from surgeon.vocab.matrix import run_init
from surgeon.vocab.tokens import NewTokens

OLD, WIDTH = 120, 16
FIRST = 130  # rows 120 to 129 are padding
OPTIONS: dict[str, dict[str, Any]] = {
    "cw2v": {"candidates": 6, "batch": 64, "dimensions": 8},
    "simplex_lm": {"steps": 3, "tokens_per_step": 128, "seq_len": 32, "candidates": 6},
    "distill": {"num_snippets": 4, "snippet_length": 12, "batch": 8},
    "distill_hull": {"num_snippets": 4, "steps": 3, "tokens_per_step": 128, "seq_len": 32},
    "focus": {"dimensions": 8, "min_count": 1},
    "ofa": {"dimensions": 8, "min_count": 1},
}
OLD_FILE = tokenizer_file([f"▁w{i}" for i in range(OLD)])

BODY: list[Body] = []


@pytest.fixture(autouse=True, scope="module")
def body_and_donor(tmp_path_factory: pytest.TempPathFactory, stories: Path) -> None:
    """A model to run, and one that has the old and the new tokens."""
    folder = tmp_path_factory.mktemp("models")
    BODY[:] = [Body(body_folder(folder / "body", stories, OLD + 10, WIDTH), "cpu")]
    tokens = [*OLD_FILE.vocab, *(f"token{n}" for n in range(7))]
    OPTIONS["omp"] = {"donor": str(donor_folder(folder / "donor", tokens, 12)), "k": 8}
    OPTIONS["adopt"] = {"donor": str(donor_folder(folder / "same-width", tokens, WIDTH))}


@pytest.fixture(autouse=True, scope="module")
def vector_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Word vectors of the old words, and of the words that a new token ends."""
    folder, draw = tmp_path_factory.mktemp("vectors"), np.random.default_rng(9)
    source = {f"w{i}": draw.normal(size=8) for i in range(OLD)}
    target = {f"w{i}token{n}": draw.normal(size=8) for i in range(3, OLD) for n in range(7)}
    OPTIONS["wechsel"] = {
        "source_vectors": write_vec(folder / "source.vec", source),
        "target_vectors": write_vec(folder / "target.vec", target),
    }


def new_tokens(num: int = 7) -> NewTokens:
    generator = torch.Generator().manual_seed(5)

    def sequences() -> list[list[int]]:
        draw = torch.Generator().manual_seed(6)
        ids = torch.randint(3, OLD + num, (40, 60), generator=draw)
        return [[int(i) if i < OLD else FIRST + int(i) - OLD for i in row] for row in ids]

    pieces = torch.randint(3, OLD, (num, 3), generator=generator).tolist()
    return NewTokens(
        tuple(f"token{n}" for n in range(num)),
        tuple(range(FIRST, FIRST + num)),
        tuple(map(tuple, pieces)),
        tuple(range(3, OLD)),
        sequences,
    )


def supply(new: NewTokens, seed: int = 0) -> dict[str, Any]:
    embed = torch.randn(OLD + 10, WIDTH, generator=torch.Generator().manual_seed(7))
    embed[OLD:] = 1e6  # a row that leaks from the padding is seen
    head = torch.randn(OLD + 10, WIDTH, generator=torch.Generator().manual_seed(8))
    return {
        "new": new, "embed_VD": embed, "input_VD": embed, "output_VD": head,
        "role": "input", "seed": seed, "pair_seed": seed, "progress": SILENT, "old_file": OLD_FILE,
        "aligned": partial(aligned, new), "body": BODY[0], "tied": False,
        "probe": probe, "old_loss_budget": 0.02,
    }  # fmt: skip


def probe() -> list[list[int]]:
    draw = torch.Generator().manual_seed(10)
    return torch.randint(3, OLD, (6, 40), generator=draw).tolist()


def aligned(new: NewTokens) -> Iterator[tuple[Cut, Cut]]:
    """Each new token over its three pieces, every piece and old token a byte."""
    pieces = dict(zip(new.ids, new.pieces, strict=True))
    for ids in new.text("align"):
        held = [i for i in ids if i < FIRST or i in pieces]
        old = [piece for i in held for piece in pieces.get(i, (i,))]
        ends = list(accumulate((3 if i in pieces else 1 for i in held), initial=0))
        yield Cut(old, list(range(len(old))), list(range(1, len(old) + 1))), Cut(held, ends[:-1], ends[1:])


def rows(name: str, new: NewTokens, seed: int = 0) -> torch.Tensor:
    given = run_init(name, OPTIONS.get(name, {}), supply(new, seed), OLD + 10)
    return given.rows(supply(new)["embed_VD"]) if isinstance(given, Combination) else given


@pytest.fixture(params=registry.names("init"))
def init(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_one_finite_row_a_token_in_float64(init: str) -> None:
    values = rows(init, new_tokens())
    assert values.shape == (7, WIDTH)
    assert values.dtype == torch.float64
    assert bool(torch.isfinite(values).all())
    assert float(values.abs().max()) < 100  # nothing of the padding


def test_it_says_what_it_is_and_where_it_comes_from(init: str) -> None:
    method = registry.get("init", init)
    assert method.summary
    assert method.trait("HULL") in (True, False)
    assert method.trait("BATCH_INDEPENDENT") in (True, False)


def test_the_same_seed_gives_the_same_bytes(init: str) -> None:
    assert torch.equal(rows(init, new_tokens()), rows(init, new_tokens()))
    if {"seed", "pair_seed"} & set(registry.get("init", init).supplied):
        assert not torch.equal(rows(init, new_tokens()), rows(init, new_tokens(), seed=1))


def test_permuted_tokens_give_permuted_rows(init: str) -> None:
    if not registry.get("init", init).trait("BATCH_INDEPENDENT"):
        pytest.skip("does not claim it")
    order = [3, 0, 6, 2, 5, 1, 4]
    new = new_tokens()
    assert torch.equal(rows(init, new.select(order)), rows(init, new)[order])
    assert torch.equal(rows(init, new.select([4])), rows(init, new)[4:5])


def test_gaussian_rows_do_not_depend_on_the_others_but_for_rounding() -> None:
    new = new_tokens()
    torch.testing.assert_close(rows("gaussian", new.select([4])), rows("gaussian", new)[4:5], rtol=0, atol=1e-14)


def test_an_init_that_claims_the_hull_gives_a_certificate(init: str) -> None:
    if not registry.get("init", init).trait("HULL"):
        pytest.skip("does not claim it")
    given = run_init(init, OPTIONS.get(init, {}), supply(new_tokens()), OLD + 10)
    assert isinstance(given, Combination)
    given.check(OLD, init)
    used = set(given.indices.tolist())
    if given.mean_ids is not None:
        used |= {i for a, b in given.mean_ids.tolist() for i in range(a, b)}
    assert used <= set(range(3, OLD))


def in_hull(point: torch.Tensor, old: torch.Tensor) -> bool:
    """By a linear programme that knows nothing of weights: is there w >= 0, sum 1, within 1e-9 of the point?"""
    equal = np.vstack([old.double().numpy().T, np.ones(len(old))])
    reach = np.hstack([equal, -np.ones((len(equal), 1))]), np.hstack([-equal, -np.ones((len(equal), 1))])
    right = np.append(point.numpy(), 1.0)
    found = linprog(
        np.append(np.zeros(len(old)), 1.0), A_ub=np.vstack(reach), b_ub=np.concatenate([right, -right]), method="highs"
    )
    assert found.status == 0
    return bool(found.fun <= 1e-9)


def test_what_claims_the_hull_lies_in_it_and_what_does_not_need_not(init: str) -> None:
    """The certificate's claim against an independent solver; draws around the mean with all of Sigma lie outside."""
    old = supply(new_tokens())["embed_VD"][3:OLD]
    inside = [in_hull(row, old) for row in rows(init, new_tokens())]
    if registry.get("init", init).trait("HULL"):
        assert all(inside)
    if init == "gaussian":
        assert all(inside)  # as near to the mean as 1e-5 of the variance
        far = run_init("gaussian", {"scale": 9.0}, supply(new_tokens()), OLD + 10)
        assert not any(in_hull(row, old) for row in far)


def test_mean_is_the_mean_and_subword_mean_that_of_the_pieces() -> None:
    new = new_tokens()
    embed = supply(new)["embed_VD"].double()
    torch.testing.assert_close(rows("mean", new)[2], embed[3:OLD].mean(0))
    torch.testing.assert_close(rows("subword_mean", new)[2], embed[list(new.pieces[2])].mean(0))


def test_gaussian_has_the_covariance_it_says() -> None:
    new = new_tokens(4000)
    new = NewTokens(new.tokens, new.ids, new.pieces, new.usable)
    given = run_init("gaussian", {"scale": 1.0}, supply(new), OLD + 10)
    embed = supply(new)["embed_VD"][3:OLD].double()
    assert float((torch.cov(given.T) - torch.cov(embed.T)).abs().max()) < 0.12
    assert float((given.mean(0) - embed.mean(0)).abs().max()) < 0.08
    still = run_init("gaussian", {"scale": 0.0}, supply(new), OLD + 10)
    torch.testing.assert_close(still, embed.mean(0).expand_as(still))


def test_cw2v_trains_its_weights_and_keeps_the_pieces_of_unseen_tokens() -> None:
    new = new_tokens()
    start = run_init("cw2v", OPTIONS["cw2v"] | {"epochs": 0}, supply(new), OLD + 10)
    after = run_init("cw2v", OPTIONS["cw2v"] | {"lr": 0.1}, supply(new), OLD + 10)
    assert torch.equal(start.indices, after.indices)
    assert not torch.equal(start.weights, after.weights)
    ids, weights = start.indices[: start.offsets[1]].tolist(), start.weights[: start.offsets[1]].tolist()
    shares = dict(zip(ids, weights, strict=True))
    assert sum(shares[p] for p in dict.fromkeys(new.pieces[0])) == pytest.approx(0.8, abs=1e-6)
    assert start.mean_weights[0] == pytest.approx(0.1, abs=1e-6)


def test_wrong_options_are_refused() -> None:
    for name, options in [
        ("convex_hull", {"support": 0}),
        ("convex_hull", {"concentration": 0}),
        ("convex_hull", {"concentration": math.inf}),
        ("gaussian", {"scale": -1}),
        ("random", {"sd": 0}),
        ("cw2v", {"mean_share": 0.5, "piece_share": 0.5}),
        ("mean", {"scale": 2}),
        ("focus", {"missing": "zeros"}),
        ("ofa", {"rank": WIDTH + 1}),
        ("wechsel", {}),
        ("simplex_lm", {"piece_share": 1.0}),
        ("distill", {"relative_lr": 0}),
        ("distill", {"max_windows": 0}),
        ("distill_hull", {"steps": -1}),
        ("omp", {}),
        ("omp", OPTIONS["omp"] | {"k": 13}),
    ]:
        with pytest.raises(UsageError):
            run_init(name, options, supply(new_tokens()), OLD + 10)


def mine(new: NewTokens) -> Combination:
    """An init of a person's own that is not convex."""
    return Combination.of([[(0, 2.0)] for _ in new.tokens])


def test_an_init_of_ones_own_is_held_to_the_same() -> None:
    with pytest.raises(SurgeonError, match="sum to 1"):
        run_init(f"{__name__}:mine", {}, supply(new_tokens()), OLD)
