"""What holds for every method: rows apart are the rows of the whole, no change is no change, the order is none."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_inputs import BASED, UNWEIGHTED, changes, in_pieces, ours, same_bits, without_base
from merge_models import merged, same_tensors, tensors, trained

from surgeon import registry
from surgeon.errors import UsageError
from surgeon.ops import rowwise
from surgeon.ops.kernels.merge import ROWWISE, merge

NUMBER = {"nuslerp": 2}
UNBASED: dict[str, dict[str, Any]] = {"linear": {}, "slerp": {}, "karcher": {}, "nuslerp": {}}


def case(method: str, shape: tuple[int, ...] = (37, 24)) -> tuple[torch.Tensor, list[torch.Tensor]]:
    return changes(NUMBER.get(method, 3), shape)


def test_every_method_is_tested_here() -> None:
    assert {*BASED, *UNBASED} == set(registry.names("merge"))
    assert all(ROWWISE({"method": name}) for name in registry.names("merge"))


@pytest.mark.parametrize("method", registry.names("merge"))
def test_every_method_says_its_source_and_facts_take_its_options(method: str) -> None:
    found = registry.get("merge", method)
    assert found.source
    facts = found.trait("facts")
    assert (facts is not None) == ("facts" in found.supplied)
    if facts is not None:
        named = {n for n, p in inspect.signature(facts).parameters.items() if p.kind is p.KEYWORD_ONLY}
        assert named <= found.options.keys()


@pytest.mark.parametrize("step", [1, 5, 36])
@pytest.mark.parametrize("method", BASED)
def test_rows_apart_are_the_rows_of_the_whole(method: str, step: int) -> None:
    """Also where many changes are equal, as those of bfloat16 models are: then positions decide what is kept."""
    for shape, grid in [((37, 24), 0.0), ((37, 24), 0.03), ((9, 4, 5), 0.0), ((9, 4, 5), 0.03)]:
        base, deltas = case(method, shape)
        if grid:
            deltas = [(delta / grid).round() * grid for delta in deltas]
        whole = ours(method, base, deltas, seed=3, **BASED[method])
        assert same_bits(in_pieces(method, base, deltas, step, seed=3, **BASED[method]), whole)
        assert not torch.equal(whole, base)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("model_stock", {"filter_wise": True}),
        ("nuslerp", {"flatten": False}),
        ("nuslerp", {"flatten": False, "row_wise": True}),
        ("dare_linear", {"rescale": "none"}),
        ("ties", {"density": 1.0}),
        ("sce", {"select_topk": 1.0}),
    ],
)
def test_rows_apart_with_other_options(method: str, options: dict[str, Any]) -> None:
    base, deltas = case(method)
    assert same_bits(in_pieces(method, base, deltas, 4, **options), ours(method, base, deltas, **options))


@pytest.mark.parametrize("method", [m for m in BASED if "facts" in registry.get("merge", m).supplied])
def test_facts_are_found_once_a_tensor(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry.get("merge", method)
    calls = []
    module = inspect.getmodule(found.function)
    facts = found.trait("facts")

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return facts(*args, **options)

    counted.__signature__ = inspect.signature(facts)  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "facts", counted)
    base, deltas = case(method)
    in_pieces(method, base, deltas, 5, **BASED[method])
    assert len(calls) == 1


@pytest.mark.parametrize("method", BASED)
def test_the_bytes_of_a_model_do_not_depend_on_chunks_or_threads(
    method: str, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix is one chunk, or 3 to 6 (the last one shorter), or 6 to 11."""
    from surgeon.merge.plan import MergeSettings, plan_merge
    from surgeon.ops.execute import execute

    base = tiny("llama")
    add = [str(trained(base, tmp_path / f"tuned{n}", n)) for n in range(2)]
    if method not in UNWEIGHTED:
        add = [f"{path}={weight}" for path, weight in zip(add, (0.6, 0.9), strict=True)]
    onto = str(base) if method == "residual" else None
    found = []
    for elements, threads in ((1 << 20, 2), (700, 1), (300, 3)):
        monkeypatch.setattr(rowwise, "CHUNK_ELEMENTS", elements)
        out = tmp_path / f"out{elements}"
        option = {n: v for n, v in BASED[method].items() if n != "scale"}
        settings = MergeSettings(base=str(base), out=out, add=add, method=method, option=option, seed=4, onto=onto)
        execute(plan_merge(settings), out, threads=threads)
        found.append(out)
    assert same_tensors(found[0], found[1]) and same_tensors(found[0], found[2])
    assert not same_tensors(found[0], base)


@pytest.mark.parametrize("shape", [(), (7,), (12, 5), (3, 4, 5)])
@pytest.mark.parametrize("method", BASED)
def test_zero_deltas_give_the_bytes_of_the_base(method: str, shape: tuple[int, ...]) -> None:
    base, deltas = case(method, shape)
    if base.dim():
        base[:2], base[-1] = 0.0, -0.0 if method not in ("task_arithmetic", "residual") else 1.0
    nothing = [delta * 0 for delta in deltas]  # zeros of both signs
    assert same_bits(ours(method, base, nothing, **BASED[method]), base)
    assert ours(method, base, deltas, **BASED[method]).shape == base.shape


@pytest.mark.parametrize("method", [m for m in BASED if not m.startswith(("dare", "della"))])
def test_the_order_of_the_models_does_not_matter(method: str) -> None:
    """With DARE and DELLA a model draws by its place: there the planner sorts by digest (see test_merge_methods)."""
    base, deltas = case(method)
    weights = [1.0] * len(deltas) if method in UNWEIGHTED else [0.7, 0.5, 0.9][: len(deltas)]
    one = ours(method, base, deltas, weights, **BASED[method])
    other = ours(method, base, deltas[::-1], weights[::-1], **BASED[method])
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", [m for m in UNBASED if registry.get("merge", m).trait("COMMUTATIVE", False)])
def test_the_order_of_models_without_a_base_does_not_matter_where_claimed(method: str) -> None:
    first, (second,) = changes(1, size=1.0)
    one = without_base(method, [first, second], [0.3, 0.9])
    other = without_base(method, [second, first], [0.9, 0.3])
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    swapped = without_base(method, [first, second], [0.9, 0.3])
    assert not torch.allclose(one, swapped)


@pytest.mark.parametrize("method", UNBASED)
def test_a_share_of_nothing_is_the_other_model_exactly(method: str) -> None:
    same_as = registry.get("merge", method).trait("same_as")
    first, (second,) = changes(1, size=1.0)
    first[0] = -0.0
    for weights, expected in (([1.0, 0.0], first), ([0.0, 3.0], second)):
        number = same_as(weights)
        assert number == (0 if expected is first else 1)
        if method != "linear":  # the planner copies bytes; the arithmetic of linear adds a product with 0
            assert same_bits(without_base(method, [first, second], weights), expected)
    assert same_as([1.0, 1.0]) is None


def test_a_base_is_asked_for_where_there_is_none() -> None:
    base, deltas = case("ties")
    with pytest.raises(UsageError, match="needs a base"):
        merge([base, *deltas], 0, method="ties", weights=[1.0] * 3, base=False)


def test_a_method_that_asks_for_facts_without_a_function_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lost_facts.py").write_text("def lost(base, deltas, facts): return base\n")
    monkeypatch.syspath_prepend(tmp_path)
    base, deltas = case("ties")
    with pytest.raises(UsageError, match="no function `facts`"):
        ours("lost_facts:lost", base, deltas)


def test_a_method_of_ones_own_has_facts_too(tmp_path: Path, stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peaks.py").write_text(
        "ROWWISE, FOUND = True, []\n"
        "def facts(chunks, weights, whole, *, share: float):\n"
        "    FOUND.append(whole)\n"
        "    return share * max(float(c[1].abs().max()) for c in chunks())\n"
        "def peaks(base, deltas, facts, start, *, share: float = 0.5):\n"
        "    return base + deltas[0] * (deltas[0].abs() >= facts)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    base, deltas = case("ties")
    found = ours("peaks:peaks", base, deltas, share="0.4")
    kept = deltas[0].abs() >= 0.4 * deltas[0].abs().max()
    assert 0 < int(kept.sum()) < kept.numel() and torch.equal(found, base + deltas[0] * kept)
    monkeypatch.setattr(rowwise, "CHUNK_ELEMENTS", 300)
    tuned = trained(stories, tmp_path / "tuned", 1)
    out = merged(tmp_path / "out", stories, {tuned: 1.0}, method="peaks:peaks")
    assert not same_tensors(out, stories) and not same_tensors(out, tuned)
    found_once = registry.get("merge", "peaks:peaks").trait("FOUND")[1:]
    assert len(found_once) == len(tensors(out)) and (512, 64) in found_once
