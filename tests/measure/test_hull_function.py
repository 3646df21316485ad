"""What new rows do to old text, on real models, against sums of another form over transformers' own logits."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import build

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.measure.hull_function import CONTINUE, PROMPT, OldText, _greedy, _load, old_text
from surgeon.ops.execute import execute
from surgeon.vocab.certificate import Extension
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings

TEXT = "Haemoglobin carries oxygen; haemophilia is a disorder of clotting. The haematologist measured haemoglobin. "
OLD = [
    "Once upon a time there was a little girl named Lily. She loved to play outside in the park with her dog.",
    "One day, the dog ran away from the house and hid behind a big tree. The girl was sad and began to look for it.",
]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def extend(model: Path, out: Path, **options: Any) -> Path:
    text = out.with_suffix(".txt")
    text.write_text(TEXT * 4, encoding="utf-8")
    settings = ExtendVocabSettings(model=str(model), out=out, corpus=[str(text)], **{"add": 20} | options)
    execute(plan_extend_vocab(settings), out, threads=1)
    return out


def change(out: Path, name: str, rows: torch.Tensor, at: int) -> None:
    tensors = load_file(out / "model.safetensors")
    tensors[name][at : at + len(rows)] = rows
    save_file(tensors, out / "model.safetensors")


def logits(folder: Path, text: str, tokenizer: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tokenizer)(text)["input_ids"]
    with torch.no_grad():
        return (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([ids])).logits[0].double()
        )


def agrees(found: OldText, model: Path, out: Path) -> None:
    """The loss is log(1 + sum_new e^l' / sum_old e^l), whatever the next token is; the bound's steps are in order."""
    increase, margins, bounds, positions = [], [], [], 0
    extension = Extension(Checkpoint.open(out))
    sums_V = extension.column_sums(HEAD if "lm_head" in "".join(extension.sources) else EMBEDDING)
    for text in OLD:
        before, after = logits(model, text, model), logits(out, text, model)
        old = before.shape[1]
        increase.append((after[:, old:].exp().sum(1) / before.exp().sum(1)).log1p()[:-1])
        bounds.append((before.softmax(1) @ sums_V).log1p()[:-1])
        margins.append(after[:, :old].max(1).values - after[:, old:].max(1).values)
        positions += len(before)
    assert found.positions == positions
    assert found.loss == pytest.approx(float(torch.cat(increase).mean()), rel=1e-9, abs=1e-12)
    assert found.most == pytest.approx(float(torch.cat(increase).max()), rel=1e-9, abs=1e-12)
    assert found.margin == pytest.approx(float(torch.cat(margins).min()), abs=1e-12)
    assert found.wins == int((torch.cat(margins) < 0).sum())
    if found.convex:
        assert found.bound is not None and found.column_sum == float(sums_V.max())
        assert found.loss <= float(torch.cat(bounds).mean()) <= found.bound


@pytest.mark.parametrize("init", ["subword_mean", "convex_hull", "gaussian"])
def test_old_text_of_a_tied_model(stories: Path, tmp_path: Path, init: str) -> None:
    out = extend(stories, tmp_path / "out", init=init, pad_to_multiple_of=64)
    found = old_text(stories, out, OLD)
    agrees(found, stories, out)
    assert found.equal and (found.documents, found.prompts, found.columns) == (2, 2, 512)
    assert found.convex == (init != "gaussian") and (found.bound is None) == (init == "gaussian")
    if found.convex:
        assert found.wins == 0 and found.margin >= 0 and found.same_text == 2


@pytest.mark.material
@pytest.mark.parametrize("init", ["subword_mean", "convex_hull", "gaussian"])
def test_old_text_of_an_untied_model_in_bfloat16(material: Path, tmp_path: Path, init: str) -> None:
    base = material / "models" / "base"
    out = extend(base, tmp_path / "out", init=init)
    found = old_text(base, out, OLD)
    agrees(found, base, out)
    assert found.equal and found.columns == 4096
    if init != "gaussian":
        assert found.wins == 0 and found.same_text == found.prompts == 2


def test_the_parents_own_text_is_what_transformers_generates(stories: Path, tmp_path: Path) -> None:
    """The loop with the cache, against transformers' own greedy decoding (as far as no end token is held back)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from surgeon.measure.hull_function import _greedy, _load

    prompt = AutoTokenizer.from_pretrained(stories)(OLD[0])["input_ids"][:PROMPT]
    model = AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32)
    said = model.generate(torch.tensor([prompt]), max_new_tokens=CONTINUE, min_new_tokens=CONTINUE, do_sample=False)
    assert _greedy(_load(stories), prompt)[:20] == said[0, len(prompt) :].tolist()[:20]


def test_column_sums_are_those_of_the_dense_matrix(stories: Path, tmp_path: Path) -> None:
    out = extend(stories, tmp_path / "out", option={"mean_share": 0.25}, init="subword_mean", pad_to_multiple_of=64)
    extension = Extension(Checkpoint.open(out))
    identity_VV = torch.eye(512, dtype=torch.float64)
    dense = torch.cat([extension.weights(claim).rows(identity_VV) for claim in extension.claims])
    assert len(dense) == 64, "20 new rows and 44 of padding"
    torch.testing.assert_close(extension.column_sums(EMBEDDING), dense.sum(0), rtol=0, atol=1e-13)
    assert float(extension.column_sums(EMBEDDING).sum()) == pytest.approx(64, abs=1e-11)


def test_rows_that_win_are_seen(stories: Path, tmp_path: Path) -> None:
    out = extend(stories, tmp_path / "out", init="convex_hull")
    held = load_file(out / "model.safetensors")[EMBEDDING]
    before = logits(stories, OLD[0], stories)
    best = int(before[PROMPT - 1].argmax())
    change(out, EMBEDDING, 1.5 * held[best][None], 517)
    found = old_text(stories, out, OLD)
    assert found.equal, "old logits are not touched by it"
    assert found.wins > 0 and found.margin < 0
    assert found.same_text < 2
    change(out, EMBEDDING, 9 * held[best][None], 517)
    found = old_text(stories, out, OLD)
    assert found.bound is not None and found.loss > found.bound


def test_a_changed_old_row_is_seen(stories: Path, tmp_path: Path) -> None:
    out = extend(stories, tmp_path / "out", init="convex_hull")
    held = load_file(out / "model.safetensors")[EMBEDDING]
    last_bit = (held[300][None].view(torch.int32) + 1).view(torch.float32)
    change(out, EMBEDDING, last_bit, 300)
    found = old_text(stories, out, OLD)
    assert not found.equal and 0 < found.apart < 1e-3


def test_a_product_over_other_sizes_is_no_difference(stories: Path, tmp_path: Path) -> None:
    """513 and 516 rows with two positions: the library may add in another order, which is no fault of the rows."""
    model = build("llama", tmp_path / "model", vocab_size=513)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(stories / name, model / name)
    out = extend(model, tmp_path / "out", init="convex_hull", add=3)
    found = old_text(model, out, ["a", "I"])
    assert found.positions == 4 and found.equal and found.apart < 1e-5
    held = load_file(out / "model.safetensors")[HEAD]
    change(out, HEAD, held[5][None] + 1e-6, 5)
    assert not old_text(model, out, ["a", "I"]).equal


def test_documents_are_cut_to_the_models_context(stories: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    shutil.copytree(stories, short)
    config = json.loads((short / "config.json").read_text()) | {"max_position_embeddings": 40}
    (short / "config.json").write_text(json.dumps(config))
    found = old_text(short, extend(short, tmp_path / "out", init="mean"), [text * 2 for text in OLD])
    assert found.positions == 80 and found.same_text == 2


def test_texts_of_no_two_tokens_are_refused(stories: Path, tmp_path: Path) -> None:
    out = extend(stories, tmp_path / "out", init="mean")
    with pytest.raises(SurgeonError, match="hold no two tokens"):
        old_text(stories, out, [""])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_greedy_text_is_that_without_a_cache_and_warns_of_nothing(tmp_path: Path, family: str) -> None:
    model = _load(build(family, tmp_path / "m"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _greedy(model, [5, 6, 7])
    ids = [5, 6, 7]
    for _ in range(CONTINUE):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert found == ids[3:]
