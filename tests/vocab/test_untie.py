"""A tied model that gets a head of its own: the same function on old ids, two inits, a lineage that merges follow."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import build

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import UsageError
from surgeon.ops.execute import execute
from surgeon.vocab.certificate import check_hull
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.promise import check_promise
from surgeon.vocab.settings import ExtendVocabSettings

sys.path.append(str(Path(__file__).resolve().parent.parent / "merge"))
from merge_models import merged, same_tensors, trained

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WORDS = "dragonfly\nwindmill\nbutterscotch\nmarmalade\nthunderstorm\n"


def untied(parent: Path, out: Path, **settings: Any) -> Path:
    words = out.parent / "words.txt"
    words.write_text(WORDS)
    options = {"untie": True} | settings
    execute(plan_extend_vocab(ExtendVocabSettings(model=str(parent), out=out, tokens=words, **options)), out)
    return out


def logits(folder: Path, rows: int, ids: list[int]) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, :, :rows]


def stored_twice(stories: Path, out: Path) -> Path:
    shutil.copytree(stories, out)
    tensors = load_file(stories / "model.safetensors")
    save_file(tensors | {HEAD: tensors[EMBEDDING].clone()}, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("twice", [False, True])
def test_both_matrices_keep_the_old_rows_and_have_inits_of_their_own(
    stories: Path, tmp_path: Path, twice: bool
) -> None:
    parent = stored_twice(stories, tmp_path / "twice") if twice else stories
    out = untied(parent, tmp_path / "out", pad_to_multiple_of=64)
    before, after = load_file(parent / "model.safetensors"), load_file(out / "model.safetensors")
    assert after.keys() == before.keys() | {HEAD}
    new = range(512, 512 + len(Checkpoint.open(out).lineage.rows.new))  # type: ignore[union-attr]
    for name in (EMBEDDING, HEAD):
        assert after[name].shape == (576, 64)
        assert torch.equal(after[name][:512], before[EMBEDDING])
    assert not torch.equal(after[EMBEDDING][list(new)], after[HEAD][list(new)])
    assert torch.equal(after[EMBEDDING][new.stop :], after[HEAD][new.stop :])  # the mean
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] is False and config["vocab_size"] == 576
    assert torch.equal(logits(out, 512, list(range(5, 300, 7))), logits(parent, 512, list(range(5, 300, 7))))
    assert all(kept.holds for kept in check_promise(parent, out, ["Once upon a time there was a dragonfly."]))
    report = check_hull(Checkpoint.open(out))
    assert report.holds and [m.tensor for m in report.matrices] == [EMBEDDING, EMBEDDING, HEAD, HEAD]
    assert all(m.reproduced for m in report.matrices)


def test_a_saved_plan_is_the_same(stories: Path, tmp_path: Path) -> None:
    out = untied(stories, tmp_path / "out")
    again = untied(stories, tmp_path / "again")
    for path in out.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(out)).read_bytes(), path


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "qwen3"])
def test_other_tied_families(stories: Path, tmp_path: Path, family: str) -> None:
    model = build(family, tmp_path / "model", vocab_size=520)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(stories / name, model / name)
    out = untied(model, tmp_path / "out", init="convex_hull", init_output="mean")
    ids = list(range(5, 105, 7))
    assert torch.allclose(logits(out, 520, ids), logits(model, 520, ids), rtol=0, atol=1e-5)
    assert check_hull(Checkpoint.open(out)).holds


@pytest.mark.parametrize("init", ["cw2v", "simplex_lm"])
def test_an_init_that_trains_both_matrices_together(stories: Path, tmp_path: Path, init: str) -> None:
    """cw2v has one set of weights for one matrix of old rows: it is stored for each of the two."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(
        "One (dragonfly) saw the (windmill) and the (marmalade) in a (thunderstorm) of (butterscotch). " * 40
    )
    options = {"steps": 2} if init == "simplex_lm" else {}
    out = untied(stories, tmp_path / "out", init=init, corpus=[str(corpus)], option=options)
    report = check_hull(Checkpoint.open(out))
    assert report.holds and [m.tensor for m in report.matrices] == [EMBEDDING, HEAD]


def test_a_probe_calibrates_the_head_alone(stories: Path, tmp_path: Path) -> None:
    probe = tmp_path / "old.txt"
    probe.write_text("Once upon a time there was a girl named Lily. She loved to play outside with her dog. " * 3)
    plain = load_file(untied(stories, tmp_path / "plain") / "model.safetensors")
    out = untied(stories, tmp_path / "out", init="weighted_pieces", probe=[str(probe)], old_loss_budget=0.0001)
    found = load_file(out / "model.safetensors")
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.rows is not None and lineage.rows.calibration is not None
    assert lineage.rows.calibration["share"] > 0
    assert torch.equal(found[EMBEDDING], plain[EMBEDDING])
    assert not torch.equal(found[HEAD], plain[HEAD])
    assert lineage.rows.method == lineage.rows.method_output == "weighted_pieces"


def test_merges_follow_it(stories: Path, tmp_path: Path) -> None:
    """It is its own reference; what a tied model learned in its one matrix goes to both."""
    wide = untied(stories, tmp_path / "wide", pad_to_multiple_of=64)
    assert same_tensors(merged(tmp_path / "half", stories, {wide: 0.5}), wide)
    domain = trained(wide, tmp_path / "domain", 1)
    assert same_tensors(merged(tmp_path / "zero", stories, {domain: 0.0}), wide)
    instruct = trained(stories, tmp_path / "instruct", 2)
    out = merged(tmp_path / "out", stories, {instruct: 1.0, domain: 0.0})
    found, base = load_file(out / "model.safetensors"), load_file(wide / "model.safetensors")
    learned = load_file(instruct / "model.safetensors")[EMBEDDING]
    for name in (EMBEDDING, HEAD):
        torch.testing.assert_close(found[name][:512], learned, rtol=0, atol=1e-6)
        assert torch.equal(found[name][512:], base[name][512:])


@pytest.mark.material
def test_what_is_not_tied_is_refused(material: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not tied"):
        untied(material / "models" / "base", tmp_path / "out")
