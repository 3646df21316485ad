"""Models from elsewhere: what was done to them is told, and then they meet as those with a lineage do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from merge_models import expanded, extended, logits, merged, same_tensors, tensors, trained
from safetensors.torch import save_file

from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.verify import verify


def forgotten(folder: Path, out: Path) -> Path:
    """The same model without what surgeon wrote beside it."""
    shutil.copytree(folder, out)
    (out / "surgeon.json").unlink()
    shutil.rmtree(out / "surgeon", ignore_errors=True)
    return out


def refusal(base: Path, *add: str, **settings: object) -> SurgeonError:
    with pytest.raises(SurgeonError) as found:
        plan_merge(MergeSettings(base=str(base), out=Path("never"), add=list(add), **settings))
    return found.value


@pytest.mark.parametrize(("fill", "blocks"), [("zero", "0,1,1:zero,2,3,4,4:zero"), ("copy", "0,1,1,2,3,4,4")])
def test_blocks_that_are_told_are_as_good_as_a_lineage(stories: Path, tmp_path: Path, fill: str, blocks: str) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    domain = trained(expanded(stories, tmp_path / "deep", [1, 4], fill), tmp_path / "domain", 2)
    plain = forgotten(domain, tmp_path / "plain")
    for policy in ("none", "source"):
        known = merged(tmp_path / f"known-{policy}", stories, {instruct: 0.6, domain: 0.7}, new_blocks=policy)
        told = merged(
            tmp_path / f"told-{policy}", stories, {instruct: 0.6, plain: 0.7}, new_blocks=policy, blocks=blocks
        )
        assert same_tensors(known, told)
        assert verify(told, function=True)["holds"]
    # what was told goes on: the merged model's lineage leads to the base
    again = merged(tmp_path / "again", stories, {told: 1.0, instruct: 0.0})
    assert same_tensors(again, told)


def test_a_lineage_that_is_given_is_as_good_as_one_that_is_there(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    instruct = trained(base, tmp_path / "instruct", 1, lineage=False)
    operated = expanded(extended(base, tmp_path / "wide", 5, 0), tmp_path / "deep", [1])
    domain = trained(operated, tmp_path / "domain", 2)
    plain = forgotten(domain, tmp_path / "plain")
    known = merged(tmp_path / "known", base, {instruct: 0.6, domain: 0.7})
    told = merged(tmp_path / "told", base, {instruct: 0.6, plain: 0.7}, lineage=operated / "surgeon.json")
    assert same_tensors(known, told)
    assert verify(told, function=True)["holds"]
    again = merged(tmp_path / "again", base, {told: 0.5, instruct: 0.5})
    assert same_tensors(again, merged(tmp_path / "again-known", base, {known: 0.5, instruct: 0.5}))


def test_untrained_identity_blocks_stay_silent_also_when_told(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    plain = forgotten(expanded(stories, tmp_path / "deep", [1]), tmp_path / "plain")
    out = merged(tmp_path / "out", stories, {instruct: 1.0, plain: 0.3}, blocks="0,1,1:zero,2,3,4")
    assert torch.equal(logits(out), logits(instruct))


def test_wrong_words_of_blocks_and_lineages(stories: Path, tmp_path: Path) -> None:
    plain = str(forgotten(expanded(stories, tmp_path / "deep", [1]), tmp_path / "plain"))
    assert "--blocks" in refusal(stories, plain).hint
    assert "5 blocks are named" in refusal(stories, plain, blocks="0,1,2,3,4").problem
    assert "is not a block of the base" in refusal(stories, plain, blocks="0,1,1,2,3,5").problem
    assert "is not a block of the base" in refusal(stories, plain, blocks="0,1,x,2,3,4").problem
    assert "so it is not new" in refusal(stories, plain, blocks="0:zero,1,1,2,3,4").problem
    assert "zero" in refusal(stories, plain, blocks="0,1,1:zeros,2,3,4").hint
    assert isinstance(refusal(stories, plain, lineage=tmp_path / "no.json"), UsageError)
    wide = extended(stories, tmp_path / "wide", 4, 0)
    assert "6" in refusal(stories, plain, lineage=wide / "surgeon.json").problem


def test_models_that_share_no_base_are_refused_with_figures(stories: Path, tmp_path: Path) -> None:
    stranger = shutil.copytree(stories, tmp_path / "stranger")
    generator = torch.Generator().manual_seed(0)
    held = {n: torch.randn(t.shape, generator=generator) * t.std() for n, t in tensors(stories).items()}
    save_file(held, stranger / "model.safetensors", metadata={"format": "pt"})
    error = refusal(stories, str(stranger))
    assert "do not share a base: the cosine of their weights is " in error.problem and "|delta| / |W|" in error.problem
    cosine = float(error.problem.partition("weights is ")[2].partition(" ")[0])
    assert abs(cosine) < 0.05
    plan_merge(MergeSettings(base=str(stories), out=tmp_path / "x", add=[str(stranger)], any_base=True))
    trained_hard = trained(stories, tmp_path / "hard", 1, lineage=False, size=0.15)
    plan_merge(MergeSettings(base=str(stories), out=tmp_path / "x", add=[str(trained_hard)]))


def test_an_output_of_models_without_lineage_descends_from_the_base(stories: Path, tmp_path: Path) -> None:
    one, other = (trained(stories, tmp_path / f"m{n}", n, lineage=False) for n in (1, 2))
    out = merged(tmp_path / "out", stories, {one: 0.5, other: 0.5}, onto=str(one))
    assert same_tensors(merged(tmp_path / "again", stories, {out: 1.0}), out)


# --- one head or two ------------------------------------------------------------------------------------------------


def two_heads(folder: Path, out: Path, seed: int) -> Path:
    """An untied copy whose head has moved away from the embedding."""
    trained(folder, out, seed, lineage=False)
    held = tensors(out)
    moved = torch.randn(held["model.embed_tokens.weight"].shape, generator=torch.Generator().manual_seed(seed)) * 0.05
    held["lm_head.weight"] = held["model.embed_tokens.weight"] + moved
    save_file(held, out / "model.safetensors", metadata={"format": "pt"})
    config = out / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    return out


def test_tied_and_untied_meet_when_asked_to(stories: Path, tmp_path: Path) -> None:
    untied = two_heads(stories, tmp_path / "untied", 1)
    chat = trained(stories, tmp_path / "chat", 2)
    assert "--untie" in refusal(stories, str(untied), str(chat)).hint
    out = merged(tmp_path / "out", stories, {untied: 0.5, chat: 0.25}, untie=True)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    name, head = "model.embed_tokens.weight", "lm_head.weight"
    b, u, c = (tensors(x) for x in (stories, untied, chat))
    base, own = b[name].double(), c[name].double()
    for at in (name, head):
        exact = base + 0.5 * (u[at].double() - base) + 0.25 * (own - base)
        torch.testing.assert_close(tensors(out)[at], exact.float(), rtol=0, atol=1e-7)
    assert logits(out).shape == logits(stories).shape
    assert verify(out, function=True)["holds"]
    assert same_tensors(merged(tmp_path / "whole", stories, {untied: 1.0, chat: 0.0}, untie=True), untied)


def test_an_untied_model_meets_one_that_was_given_rows(stories: Path, tmp_path: Path) -> None:
    untied = two_heads(stories, tmp_path / "untied", 1)
    wide = extended(stories, tmp_path / "wide", 5, 0)
    domain = trained(wide, tmp_path / "domain", 2)
    out = tensors(merged(tmp_path / "out", stories, {untied: 1.0, domain: 0.0}, untie=True))
    held, first = tensors(untied), tensors(wide)["model.embed_tokens.weight"]
    for at in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(out[at][:512], held[at], rtol=0, atol=1e-7)
        assert torch.equal(out[at][512:], first[512:])


def test_there_must_be_something_to_untie(stories: Path, tmp_path: Path) -> None:
    chat = trained(stories, tmp_path / "chat", 2)
    assert "head of its own" in refusal(stories, str(chat), untie=True).problem
