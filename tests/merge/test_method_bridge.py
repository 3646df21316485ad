"""mergekit:NAME: mergekit's methods with surgeon's words."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_inputs import changes, ours, same_bits, theirs, without_base
from merge_models import expanded, merged, same_tensors, tensors, trained

from surgeon import registry
from surgeon.cli.app import main
from surgeon.errors import UsageError
from surgeon.merge.methods import mergekit
from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.kernels.merge import ROWWISE, merge

NEEDS: dict[str, dict[str, Any]] = {"slerp": {"t": 0.4}, "nearswap": {"t": 0.01}}
TWO = ("slerp", "nearswap", "arcee_fusion")  # the base and one other
NAMES = mergekit.members()


def method(name: str) -> registry.Method:
    return registry.get("merge", f"mergekit:{name}")


def number(name: str) -> int:
    return 1 if name in TWO else 2


def weighted(name: str) -> bool:
    from mergekit.merge_methods import get

    return any(p.name == "weight" for p in get(name).spec.parameters)


def test_all_of_mergekit_is_there_but_passthrough() -> None:
    from mergekit.merge_methods import registered_methods

    assert {*NAMES, "passthrough"} == {m.spec.name for m in registered_methods()} and len(NAMES) == 19
    with pytest.raises(UsageError, match="depth") as refused:
        method("passthrough")
    assert "expand-layers" in refused.value.hint
    with pytest.raises(UsageError, match="no method 'tiess'") as refused:
        method("tiess")
    assert "'ties'" in refused.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_it_is_mergekits_result(name: str) -> None:
    found = method(name)
    base, deltas = changes(number(name), size=0.3)
    weights = [0.7, 0.5][: len(deltas)] if weighted(name) else [1.0] * len(deltas)
    parameters = NEEDS.get(name, {}) | ({"weight": weights} if weighted(name) else {})
    assert found.trait("ROWWISE", False) is False and not ROWWISE({"method": f"mergekit:{name}"})
    if "tensors" in found.supplied:
        result = without_base(f"mergekit:{name}", deltas, weights, **NEEDS.get(name, {}))
        assert same_bits(result, theirs(name, None, deltas, **parameters))
    else:
        result = ours(f"mergekit:{name}", base, deltas, weights, **NEEDS.get(name, {}))
        assert same_bits(result, theirs(name, base, deltas, **parameters))
    assert result.dtype == torch.float64 and result.shape == base.shape and not torch.equal(result, base)


@pytest.mark.parametrize("name", ["multislerp", "nuslerp"])
def test_a_base_is_optional_where_it_is_in_mergekit(name: str) -> None:
    assert method(name).trait("BASE_OPTIONAL") is True and method("ties").trait("BASE_OPTIONAL") is False
    _, models = changes(2)
    found = merge(models, 0, method=f"mergekit:{name}", weights=[0.3, 0.7], base=False)
    assert same_bits(found, theirs(name, None, models, weight=[0.3, 0.7]))


@pytest.mark.parametrize("name", [n for n in NAMES if "tensors" not in method(n).supplied])
def test_zero_deltas_give_the_base(name: str) -> None:
    """But slerp, which sums two shares of it, to rounding; multislerp of several has no direction to take."""
    base, deltas = changes(1 if name in (*TWO, "multislerp") else 2)
    nothing = [torch.zeros_like(delta) for delta in deltas]
    found = ours(f"mergekit:{name}", base, nothing, [1.0] * len(nothing), **NEEDS.get(name, {}))
    assert same_bits(found, base) if name != "slerp" else torch.allclose(found, base, rtol=1e-15, atol=0)


def test_lambda_is_scale_by_another_name() -> None:
    base, deltas = changes(2)
    expected = theirs("ties", base, deltas, weight=[1.0, 0.5], density=0.3, **{"lambda": 0.7})
    for given in ({"lambda": "0.7"}, {"scale": 0.7}):
        assert same_bits(ours("mergekit:ties", base, deltas, [1.0, 0.5], density=0.3, **given), expected)
    with pytest.raises(UsageError, match="one number"):
        ours("mergekit:ties", base, deltas, [1.0, 0.5], scale=0.7, **{"lambda": 0.7})


def test_options_are_mergekits_parameters() -> None:
    options = method("breadcrumbs").options
    assert {"density", "gamma", "lambda", "scale", "normalize"} <= options.keys() and "weight" not in options
    assert options["gamma"].default == 0.01 and options["gamma"].annotation is float
    assert method("slerp").options["t"].required and "scale" not in method("sce").options
    base, deltas = changes(2)
    for wrong in ({"gama": 0.1}, {"density": "much"}):
        with pytest.raises(UsageError):
            ours("mergekit:breadcrumbs", base, deltas, [1.0, 1.0], **wrong)
    with pytest.raises(UsageError, match="needs the option 't'"):
        ours("mergekit:slerp", base, deltas[:1], [1.0])


def test_what_mergekit_refuses_is_a_refusal() -> None:
    base, deltas = changes(3)
    with pytest.raises(UsageError, match="exactly 2"):
        ours("mergekit:slerp", base, deltas, [1.0] * 3, t=0.5)
    with pytest.raises(UsageError, match="Epsilon"):
        ours("mergekit:della", base, deltas, [1.0] * 3, density=0.1)
    with pytest.raises(UsageError, match="takes no weights"):
        ours("mergekit:ram", base, deltas, [1.0, 0.5, 1.0])


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_random_ones_depend_on_the_tensors_seed_only(name: str) -> None:
    base, deltas = changes(2)

    def run(seed: int) -> torch.Tensor:
        return ours(f"mergekit:{name}", base, deltas, [0.7, 0.5], seed, density=0.5)

    before = torch.get_rng_state()
    apart = [run(seed) for seed in range(12)]
    assert torch.equal(before, torch.get_rng_state()), "the generator of the process is left as it was"
    assert not torch.equal(apart[0], apart[1])
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(12)))
    assert all(same_bits(a, b) for a, b in zip(apart, together, strict=True))


def test_a_model_merged_by_the_bridge(stories: Path, tmp_path: Path) -> None:
    one, other = trained(stories, tmp_path / "one", 1), trained(stories, tmp_path / "other", 2)
    ram = merged(tmp_path / "ram", stories, {one: 1.0, other: 1.0}, method="mergekit:ram", option={"epsilon": "0.01"})
    name = "model.layers.1.mlp.up_proj.weight"
    base, first, second = (tensors(folder)[name].double() for folder in (stories, one, other))
    order = [first - base, second - base]
    expected = theirs("ram", base, order, epsilon=0.01).float()
    torch.testing.assert_close(tensors(ram)[name], expected, rtol=1e-6, atol=1e-9)
    dare = [
        merged(tmp_path / f"dare{n}", stories, {one: 1.0, other: 1.0}, method="mergekit:dare_ties",
               option={"density": 0.5}, seed=seed)
        for n, seed in enumerate((3, 3, 4))
    ]  # fmt: skip
    assert same_tensors(dare[0], dare[1]) and not same_tensors(dare[0], dare[2])


@pytest.mark.parametrize("name", NAMES)
def test_a_merge_by_it_can_be_planned(stories: Path, tmp_path: Path, name: str) -> None:
    models = [str(trained(stories, tmp_path / f"m{n}", n)) for n in range(number(name))]
    common: dict[str, Any] = {"method": f"mergekit:{name}", "out": tmp_path / "x", "option": NEEDS.get(name, {})}
    if "tensors" in method(name).supplied:
        plan_merge_models(MergeModelsSettings(models=models, **common))
    else:
        plan_merge(MergeSettings(base=str(stories), add=models, **common))


@pytest.mark.parametrize("name", ["slerp", "nearswap"])
def test_an_option_that_must_be_given_is_taken(stories: Path, tmp_path: Path, name: str) -> None:
    one = trained(stories, tmp_path / "one", 1)
    out = merged(tmp_path / "out", stories, {one: 1.0}, method=f"mergekit:{name}", option={"t": "0.01"})
    part = "model.layers.1.mlp.up_proj.weight"
    base, tuned = (tensors(folder)[part].double() for folder in (stories, one))
    torch.testing.assert_close(
        tensors(out)[part], theirs(name, base, [tuned - base], t=0.01).float(), rtol=1e-6, atol=1e-9
    )
    with pytest.raises(UsageError, match="needs the option 't'"):
        merged(tmp_path / "x", stories, {one: 1.0}, method=f"mergekit:{name}")


@pytest.mark.parametrize("name", ["nuslerp", "model_stock"])
def test_a_model_that_has_nothing_in_a_new_block_is_one_of_them(stories: Path, tmp_path: Path, name: str) -> None:
    deep = trained(expanded(stories, tmp_path / "deep", [2]), tmp_path / "deep-trained", 1)
    shallow = trained(stories, tmp_path / "shallow", 2)
    out = merged(tmp_path / "out", stories, {deep: 1.0, shallow: 1.0}, method=f"mergekit:{name}")
    part = "model.layers.3.mlp.up_proj.weight"
    at_first, tuned = (tensors(folder)[part].double() for folder in (tmp_path / "deep", deep))
    weights = {"weight": [1.0, 1.0]} if weighted(name) else {}
    expected = theirs(name, at_first, [tuned - at_first, torch.zeros_like(at_first)], **weights)
    torch.testing.assert_close(tensors(out)[part], expected.float(), rtol=1e-6, atol=1e-9)


def test_what_mergekit_refuses_is_refused_before_anything_is_written(stories: Path, tmp_path: Path) -> None:
    one, other = trained(stories, tmp_path / "one", 1), trained(stories, tmp_path / "other", 2)
    words = [f"{one}=1", f"{other}=1"]
    for name, option in (("slerp", {"t": 0.5}), ("della", {"density": 0.1})):
        settings = MergeSettings(
            base=str(stories), out=tmp_path / "x", add=words, method=f"mergekit:{name}", option=option
        )
        with pytest.raises(UsageError, match="does not merge this"):
            plan_merge(settings)


def test_a_family_is_listed_with_its_members(capsys: pytest.CaptureFixture[str]) -> None:
    def listed(*words: str) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            main(["methods", *words, "--json"])
        return {m["name"]: m for m in json.loads(capsys.readouterr().out)["methods"] if m["kind"] == "merge"}

    merges = listed("merge")
    assert {f"mergekit:{name}" for name in NAMES} <= merges.keys() and "mergekit" not in merges
    assert merges["mergekit:nearswap"]["options"] == {"t": {"type": "float", "required": True}}
    assert "2306.01708" in merges["mergekit:ties"]["source"]
    every = listed()
    assert every["mergekit:NAME"]["summary"].startswith("mergekit's own methods") and "mergekit:ties" not in every


def test_a_family_is_no_method() -> None:
    assert registry.families("merge") == ["mergekit"] and "mergekit" not in registry.names("merge")
    with pytest.raises(UsageError, match="family") as refused:
        registry.get("merge", "mergekit")
    assert "mergekit:ties" in refused.value.hint
