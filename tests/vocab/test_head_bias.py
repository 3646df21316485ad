"""A head with a bias: new biases are mixed as the new rows are, and every promise holds on the whole model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import build

from surgeon.checkpoint.index import Checkpoint
from surgeon.ops.execute import execute
from surgeon.verify import verify
from surgeon.vocab.certificate import check_hull
from surgeon.vocab.hull import Combination
from surgeon.vocab.hull_file import HULL_FILE, read_hull
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings

TEXT = "Haemoglobin carries oxygen; haemophilia is a disorder of clotting. The haematologist measured haemoglobin. "
HEAD, BIAS = "lm_head.weight", "lm_head.bias"


def extend(stories: Path, folder: Path, **options: Any) -> tuple[Path, Path, Path]:
    """(the model, its extension, the text that both were given)."""
    model, out, text = build("phi", folder / "model", vocab_size=512), folder / "out", folder / "text.txt"
    for path in stories.glob("tokenizer*"):
        shutil.copyfile(path, model / path.name)
    text.write_text(TEXT * 40, encoding="utf-8")
    settings = ExtendVocabSettings(model=str(model), out=out, corpus=[str(text)], add=12, **options)
    execute(plan_extend_vocab(settings), out)
    return model, out, text


@pytest.mark.parametrize("init", ["mean", "subword_mean", "weighted_pieces", "convex_hull", "cw2v", "simplex_lm"])
def test_convex_rows_have_the_bias_of_their_weights(stories: Path, tmp_path: Path, init: str) -> None:
    options = {"steps": 2} if init == "simplex_lm" else {}
    model, out, text = extend(stories, tmp_path, init=init, option=options, pad_to_multiple_of=16)
    before, after = load_file(model / "model.safetensors"), load_file(out / "model.safetensors")
    given = read_hull(out / HULL_FILE).matrices[HEAD]
    torch.testing.assert_close(after[BIAS][512:524], given.rows(before[BIAS]).float(), rtol=0, atol=1e-6)
    assert torch.equal(after[BIAS][:512], before[BIAS]) and float(before[BIAS].std()) > 0
    assert after[BIAS].shape == (528,) and len(set(after[BIAS][524:].tolist())) == 1  # padding: the mean
    result = verify(out, function=True, data=[str(text)], parent=model)
    assert result["holds"], [c for c in result["checks"] if not c["holds"]]
    names = {c["check"] for c in result["checks"]}
    assert {f"rows of {BIAS} are what the weights give", f"old rows of {BIAS}"} <= names


def test_dense_rows_have_the_mean_bias(stories: Path, tmp_path: Path) -> None:
    model, out, _ = extend(stories, tmp_path, init="convex_hull", init_output="gaussian")
    bias = load_file(out / "model.safetensors")[BIAS]
    assert len(set(bias[512:].tolist())) == 1 and bias.shape == (524,)
    old = load_file(model / "model.safetensors")[BIAS]
    assert float(old.min()) < float(bias[512]) < float(old.max())


def test_biases_of_other_weights_are_found(stories: Path, tmp_path: Path) -> None:
    """They are convex and give the stored biases, but a new token could win over the best old one by them."""
    _, out, _ = extend(stories, tmp_path, init="convex_hull")
    (path,) = (out / "surgeon").glob("rows-*.safetensors")
    tables, tensors = load_file(path), load_file(out / "model.safetensors")
    best = int(tensors[BIAS][:512].argmax())
    tables["output_bias.indices"] = torch.full_like(tables["output_bias.indices"], best)
    whole = Combination.from_tables(tables, "output_bias")
    tensors[BIAS][512:] = whole.rows(tensors[BIAS][:512]).float()
    save_file(tables, path)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    problems = {m.tensor: m.problem for m in check_hull(Checkpoint.open(out)).matrices if m.problem}
    assert problems == {BIAS: f"the weights are not those of the rows of {HEAD}"}


def test_adopted_rows_have_their_own_bias(stories: Path, tmp_path: Path) -> None:
    """The other model's, as its rows are, and old text is measured with it; what it lacks has the mean of its
    pieces."""
    model, there, text = extend(stories, tmp_path, init="gaussian", option={})
    held = load_file(there / "model.safetensors")
    held[BIAS] += 3 * torch.randn(held[BIAS].shape, generator=torch.Generator().manual_seed(3))
    save_file(held, there / "model.safetensors", {"format": "pt"})
    out = tmp_path / "adopted"
    settings = ExtendVocabSettings(model=str(model), out=out, tokens_of=str(there), probe=[str(text)])
    execute(plan_extend_vocab(settings), out)
    found = load_file(out / "model.safetensors")
    assert torch.equal(found[BIAS][512:], held[BIAS][512:]) and torch.equal(found[HEAD][512:], held[HEAD][512:])
    assert torch.equal(found[BIAS][:512], load_file(model / "model.safetensors")[BIAS])
    result = verify(out, function=True, data=[str(text)], parent=model)
    assert result["holds"], [c for c in result["checks"] if not c["holds"]]
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("zebra\n", encoding="utf-8")
    lacking = ExtendVocabSettings(
        model=str(model),
        out=tmp_path / "lacking",
        tokens=tokens,
        init="adopt",
        option={"donor": str(there), "missing": "subword_mean"},
    )
    execute(plan_extend_vocab(lacking), lacking.out)
    plain = lacking.model_copy(update={"out": tmp_path / "plain", "init": "subword_mean", "option": {}})
    execute(plan_extend_vocab(plain), plain.out)
    one, other = (load_file(x.out / "model.safetensors")[BIAS] for x in (lacking, plain))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
