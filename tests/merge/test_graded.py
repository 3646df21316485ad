"""Weights and options over depth and parts: strictly read, exact at the points, seen by every tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from merge_models import expanded, merged, tensors, trained

from surgeon.errors import UsageError
from surgeon.merge.graded import Graded, parse
from surgeon.merge.place import Place
from surgeon.merge.plan import MergeSettings, plan_merge


@pytest.mark.parametrize("text", ["0.7", "0.0,0.5,1.0", "0.5,attention:0.0,0.5,0.3,0.7,1.0,mlp:1.0", "-1.0,head:2.0"])
def test_text_and_value_are_the_same_thing(text: str) -> None:
    assert parse(parse(text, "w").plain(), "w") == parse(text, "w")


def test_a_recipe_says_the_same_with_yaml() -> None:
    mapping = {"default": 0.5, "attention": [0, 0.5, 1], "mlp": "0.3"}
    assert parse(mapping, "w") == parse("0.5,attention:0,0.5,1,mlp:0.3", "w")
    assert parse([0, 1], "w") == parse("0,1", "w") and parse(2, "w") == parse("2", "w")


@pytest.mark.parametrize(
    "wrong", ["", "x", "1,,2", "1,mlp:", "mlp:1", "1,mlp:1,mlp:2", "inf", True, {"mlp": 1}, [], None]
)
def test_anything_else_is_refused(wrong: object) -> None:
    with pytest.raises(UsageError):
        parse(wrong, "w")


def test_a_curve_is_exact_at_its_points_and_straight_between() -> None:
    curve = parse("0.1,0.7,0.3", "w")
    assert [curve.at(Place("mlp.up", d)) for d in (0.0, 0.5, 1.0)] == [0.1, 0.7, 0.3]
    assert curve.at(Place("mlp.up", 0.25)) == pytest.approx(0.4, abs=1e-15)
    assert curve.at(Place("mlp.up", 0.75)) == pytest.approx(0.5, abs=1e-15)


def test_the_longest_name_that_fits_is_taken() -> None:
    graded = Graded((1.0,), {"attention": (2.0,), "attention.q": (3.0,), "mlp": (4.0,)})
    at = {role: graded.at(Place(role, 0.0)) for role in ("attention.q", "attention.v", "moe.expert.up", "norm")}
    assert at == {"attention.q": 3.0, "attention.v": 2.0, "moe.expert.up": 4.0, "norm": 1.0}


def test_every_tensor_gets_its_own_weight_also_in_a_deeper_model(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    deep = expanded(stories, tmp_path / "deep", [1])
    out = tmp_path / "out"
    words = [f"{instruct}=0.5,attention:0,1,mlp:0.2,norm:1"]
    from surgeon.ops.execute import execute

    execute(plan_merge(MergeSettings(base=str(stories), out=out, add=words, onto=str(deep))), out)
    found, base, tuned = tensors(out), tensors(stories), tensors(instruct)
    old = {0: 0, 1: 1, 3: 2, 4: 3, 5: 4}

    def expected(name: str, source: str, weight: float) -> torch.Tensor:
        exact = base[source].double() + weight * (tuned[source].double() - base[source].double())
        return exact.float()

    for block, source in old.items():
        for part, weight in (("self_attn.q_proj", block / 5), ("mlp.up_proj", 0.2), ("input_layernorm", 1.0)):
            name, origin = f"model.layers.{block}.{part}.weight", f"model.layers.{source}.{part}.weight"
            assert torch.equal(found[name], expected(name, origin, weight)), name
    assert torch.equal(found["model.embed_tokens.weight"], expected("", "model.embed_tokens.weight", 0.5))
    assert torch.equal(found["model.norm.weight"], expected("", "model.norm.weight", 0.5))


def test_numbers_of_a_method_vary_too(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    out = merged(
        tmp_path / "out", stories, {instruct: 1.0}, method="ties", option={"density": "1,mlp:0.25,attention:0.5,1"}
    )
    found, base = tensors(out), tensors(stories)

    def changed(name: str) -> float:
        return (found[name] != base[name]).double().mean().item()

    assert changed("model.layers.2.mlp.up_proj.weight") == pytest.approx(0.25, abs=0.001)
    assert changed("model.layers.0.self_attn.q_proj.weight") == pytest.approx(0.5, abs=0.001)
    assert changed("model.layers.4.self_attn.q_proj.weight") > 0.999
    assert changed("model.embed_tokens.weight") > 0.999


def test_a_part_that_the_model_does_not_have(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    for add, option in ((f"{instruct}=1,attention.qq:2", {}), (f"{instruct}=1", {"density": "1,moe:0.5"})):
        settings = MergeSettings(base=str(stories), out=tmp_path / "x", add=[add], method="ties", option=option)
        with pytest.raises(UsageError, match="no part"):
            plan_merge(settings)
