"""The ends of a merge are its models, byte for byte, and the identity blocks stay silent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from merge_models import expanded, logits, merged, same_tensors, tensors, trained

from surgeon.checkpoint.index import Checkpoint
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.execute import execute
from surgeon.progress import Silent


@pytest.fixture(scope="module")
def family(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("endpoints")
    instruct = trained(stories, root / "instruct", 1, lineage=False)
    deep = expanded(stories, root / "deep", [1, 4])
    return {
        "root": root,
        "base": stories,
        "instruct": instruct,
        "chat": trained(stories, root / "chat", 2),
        "deep": deep,
        "domain": trained(deep, root / "domain", 3),
    }


def test_equal_shapes_end_at_base_first_and_second(family: dict[str, Path], tmp_path: Path) -> None:
    base, instruct, chat = family["base"], family["instruct"], family["chat"]
    none = merged(tmp_path / "none", base, {instruct: 0.0, chat: 0.0})
    assert Checkpoint.open(none).digest == Checkpoint.open(base).digest
    assert same_tensors(merged(tmp_path / "first", base, {instruct: 1.0, chat: 0.0}), instruct)
    assert same_tensors(merged(tmp_path / "second", base, {instruct: 0.0, chat: 1.0}), chat)


def test_a_model_that_is_the_base_changes_nothing_and_that_is_said(family: dict[str, Path], tmp_path: Path) -> None:
    again = shutil.copytree(family["base"], tmp_path / "again")
    lines: list[str] = []

    class Heard(Silent):
        def say(self, line: str) -> None:
            lines.append(line)

    settings = MergeSettings(base=str(family["base"]), out=tmp_path / "out", add=[f"{again}=0.5"])
    execute(plan_merge(settings, Heard()), tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").digest == Checkpoint.open(family["base"]).digest
    assert any("delta is zero" in line for line in lines)


def test_ends_with_a_deeper_model(family: dict[str, Path], tmp_path: Path) -> None:
    base, instruct, domain, deep = (family[k] for k in ("base", "instruct", "domain", "deep"))
    assert same_tensors(merged(tmp_path / "none", base, {instruct: 0.0, domain: 0.0}), deep)
    assert same_tensors(merged(tmp_path / "second", base, {instruct: 0.0, domain: 1.0}), domain)
    first = merged(tmp_path / "first", base, {instruct: 1.0, domain: 0.0})
    assert torch.equal(logits(first), logits(instruct))


@pytest.mark.parametrize("weight", [1.0, 0.7, 0.5])
def test_an_untrained_identity_expansion_stays_an_identity_at_any_weight(
    family: dict[str, Path], tmp_path: Path, weight: float
) -> None:
    out = merged(tmp_path / "out", family["base"], {family["deep"]: weight})
    assert torch.equal(logits(out), logits(family["base"]))
    both = merged(tmp_path / "both", family["base"], {family["deep"]: weight, family["instruct"]: 1.0})
    assert torch.equal(logits(both), logits(family["instruct"]))


def test_the_order_of_add_does_not_matter(family: dict[str, Path], tmp_path: Path) -> None:
    base, instruct, domain, chat = (family[k] for k in ("base", "instruct", "domain", "chat"))
    one = merged(tmp_path / "one", base, {instruct: 0.7, domain: 0.9, chat: -0.2})
    other = merged(tmp_path / "other", base, {chat: -0.2, domain: 0.9, instruct: 0.7})
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert (one / "surgeon.json").read_bytes() == (other / "surgeon.json").read_bytes()


def test_the_formula_in_float64_with_one_rounding(family: dict[str, Path], tmp_path: Path) -> None:
    base, instruct, domain, deep = (family[k] for k in ("base", "instruct", "domain", "deep"))
    out = tensors(merged(tmp_path / "out", base, {instruct: 0.7, domain: 0.3}, scale=1.1))
    b, i, d, at_first = tensors(base), tensors(instruct), tensors(domain), tensors(deep)
    old = {0: 0, 1: 1, 3: 2, 4: 3, 5: 4}
    for name, value in out.items():
        parts = name.split(".")
        source: str | None = name
        if parts[1] == "layers":
            block = int(parts[2])
            source = ".".join([*parts[:2], str(old[block]), *parts[3:]]) if block in old else None
        expected = at_first[name].double() + 1.1 * 0.3 * (d[name].double() - at_first[name].double())
        if source is not None:
            expected += 1.1 * 0.7 * (i[source].double() - b[source].double())
        torch.testing.assert_close(value, expected.float(), rtol=0, atol=1e-7)


def test_a_merged_model_has_the_target_as_parent_and_can_be_merged_again(
    family: dict[str, Path], tmp_path: Path
) -> None:
    base, instruct, domain, chat = (family[k] for k in ("base", "instruct", "domain", "chat"))
    once = merged(tmp_path / "once", base, {instruct: 1.0, domain: 1.0})
    lineage = Checkpoint.open(once).lineage
    assert lineage is not None and lineage.kind == "training"
    assert [p.name for p in lineage.parents][:1] == ["domain"] and lineage.parents[0].role == "model"
    twice = merged(tmp_path / "twice", base, {once: 1.0, chat: 0.0})
    assert same_tensors(twice, once)


def test_onto_gives_the_shape_without_its_delta(family: dict[str, Path], tmp_path: Path) -> None:
    out = merged(tmp_path / "out", family["base"], {family["instruct"]: 1.0}, onto=str(family["domain"]))
    assert torch.equal(logits(out), logits(family["instruct"]))
    assert tensors(out).keys() == tensors(family["domain"]).keys()


def test_new_blocks_source_gives_the_delta_but_never_to_a_zeroed_writer(
    family: dict[str, Path], tmp_path: Path
) -> None:
    instruct = family["instruct"]
    out = merged(tmp_path / "out", family["base"], {instruct: 1.0}, onto=str(family["deep"]), new_blocks="source")
    found, tuned = tensors(out), tensors(instruct)
    assert torch.equal(
        found["model.layers.2.self_attn.q_proj.weight"], tuned["model.layers.1.self_attn.q_proj.weight"]
    )
    assert not found["model.layers.2.self_attn.o_proj.weight"].any()
    assert not found["model.layers.2.mlp.down_proj.weight"].any()
    assert torch.equal(logits(out), logits(instruct))


def test_dtype_of_the_output(family: dict[str, Path], tmp_path: Path) -> None:
    out = merged(tmp_path / "out", family["base"], {family["instruct"]: 1.0}, dtype="bfloat16")
    expected = {n: t.to(torch.bfloat16) for n, t in tensors(family["instruct"]).items()}
    assert all(torch.equal(t, expected[n]) for n, t in tensors(out).items())
    assert Checkpoint.open(out).config["dtype"] == "bfloat16"
