"""What old text loses as a term of a loss: its value, its gradients, and the price that holds it at the budget."""

from __future__ import annotations

import pytest
import torch

from surgeon.vocab import old_text_price
from surgeon.vocab.body import Head
from surgeon.vocab.old_loss import NewRowsBeside, OldModel, Output
from surgeon.vocab.old_text_price import Price, old_text_loss
from surgeon.vocab.tokens import NewTokens

OLD, WIDTH, NEW, POSITIONS = 30, 6, 4, 50


def old_model(replaced: tuple[int, ...], bias: bool, softcap: float | None) -> OldModel:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(OLD, WIDTH, generator=draw)
    head = Head(weight, torch.randn(OLD, generator=draw) if bias else None, 0.7, softcap)
    return OldModel.measure(head, torch.randn(POSITIONS, WIDTH, generator=draw), replaced)


def in_float64(old: OldModel) -> OldModel:
    head = Head(old.head.weight.double(), None, old.head.scale, old.head.softcap)
    return OldModel(head, old.hidden.double(), old.log_z, old.gone.double(), old.best, old.best_logit, old.mean)


def new_rows(bias: bool, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(NEW, WIDTH, generator=draw).to(dtype)
    return rows, torch.randn(NEW, generator=draw).to(dtype) if bias else None


CASES = [((), False, None), ((), True, 5.0), ((28, 29), True, None), ((29,), False, 2.0)]


@pytest.mark.parametrize(("replaced", "bias", "softcap"), CASES)
def test_the_value_is_what_the_calibration_measures(
    replaced: tuple[int, ...], bias: bool, softcap: float | None
) -> None:
    old = old_model(replaced, bias, softcap)
    rows, biases = new_rows(bias, torch.float32)
    ids = (*replaced, *range(OLD, OLD + NEW - len(replaced)))
    new = NewTokens(tuple("abcd"), ids, ((3,),) * NEW, tuple(range(OLD)))
    measured = NewRowsBeside(old, old.head.weight, new).measure(Output(rows, biases))
    found = old_text_loss(old, torch.arange(POSITIONS), rows, biases)
    assert found.value == pytest.approx(measured.loss, abs=1e-6)
    assert (found.bias is None) == (biases is None)


@pytest.mark.parametrize(("replaced", "bias", "softcap"), CASES)
def test_the_gradients_are_finite_differences(
    replaced: tuple[int, ...], bias: bool, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, at some of the positions, several chunks of them."""
    monkeypatch.setattr(old_text_price, "_ELEMENTS", 5 * NEW)
    old = in_float64(old_model(replaced, bias, softcap))
    rows, biases = new_rows(bias, torch.float64)
    at = torch.arange(0, POSITIONS, 3)
    found = old_text_loss(old, at, rows, biases)
    for values, gradient in ((rows, found.rows), (biases, found.bias)):
        if values is None or gradient is None:
            continue
        expected = torch.zeros_like(values)
        flat, out = values.view(-1), expected.view(-1)
        for k in range(len(flat)):
            held, sides = float(flat[k]), []
            for step in (1e-5, -1e-5):
                flat[k] = held + step
                sides.append(old_text_loss(old, at, rows, biases).value)
            flat[k] = held
            out[k] = (sides[0] - sides[1]) / 2e-5
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_chunks_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    old, (rows, _) = old_model((), False, None), new_rows(False, torch.float32)
    whole = old_text_loss(old, torch.arange(POSITIONS), rows, None)
    monkeypatch.setattr(old_text_price, "_ELEMENTS", 7 * NEW)
    parts = old_text_loss(old, torch.arange(POSITIONS), rows, None)
    assert parts.value == pytest.approx(whole.value, rel=1e-6)
    torch.testing.assert_close(parts.rows, whole.rows, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("wish", "settles"), [(3.0, 2.0), (1.5, 1.5)])
def test_the_price_holds_the_loss_at_the_budget_or_vanishes(wish: float, settles: float) -> None:
    """Of (x - wish)^2 under x <= 2 the minimum is 2 where the wish lies beyond, at the price 2 (wish - 2)."""
    price, x = Price(2.0, 5.0), 0.0
    for _ in range(4000):
        x -= 0.02 * (2 * (x - wish) + price.value)
        price.update(x)
    assert x == pytest.approx(settles, abs=1e-3)
    assert price.value == pytest.approx(2 * (wish - settles), abs=1e-3)


def test_a_step_of_the_price_is_bounded() -> None:
    price = Price(0.02, 5.0, rate=0.1)
    price.update(1e6)
    assert price.value == pytest.approx(5.0 * 2.718281828**0.1)
    price.update(-1e6)
    assert price.value == pytest.approx(5.0)
