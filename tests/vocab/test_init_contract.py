"""What every init promises, whoever wrote it: each file of surgeon/vocab/inits is held to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from surgeon import registry
from surgeon.errors import SurgeonError, UsageError
from surgeon.vocab.hull import Combination
from surgeon.vocab.matrix import run_init
from surgeon.vocab.tokens import NewTokens

OLD, WIDTH = 120, 16
FIRST = 130  # rows 120 to 129 are padding
OPTIONS: dict[str, dict[str, Any]] = {"cw2v": {"candidates": 6, "batch": 64, "dimensions": 8}}


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
        "role": "input", "seed": seed, "pair_seed": seed,
    }  # fmt: skip


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
        ("gaussian", {"scale": -1}),
        ("random", {"sd": 0}),
        ("cw2v", {"mean_share": 0.5, "piece_share": 0.5}),
        ("mean", {"scale": 2}),
    ]:
        with pytest.raises(UsageError):
            run_init(name, options, supply(new_tokens()), OLD + 10)


def mine(new: NewTokens) -> Combination:
    """An init of a person's own that is not convex."""
    return Combination.of([[(0, 2.0)] for _ in new.tokens])


def test_an_init_of_ones_own_is_held_to_the_same() -> None:
    with pytest.raises(SurgeonError, match="sum to 1"):
        run_init(f"{__name__}:mine", {}, supply(new_tokens()), OLD)
