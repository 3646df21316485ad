"""extend-vocab from the model to the written checkpoint: bytes, lineage, certificates, transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import build

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.execute import execute
from surgeon.ops.plan import dump_plan, from_json
from surgeon.vocab.certificate import check_hull
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings, Use, chosen_inits

TEXT = """Haemoglobin carries oxygen; haemophilia is a disorder of clotting. The haematologist measured haemoglobin and
haematocrit, found anaemia, and asked for a transfusion. Patients with haemophilia were given clotting factor. In
anaemia the haematocrit falls and haemoglobin falls with it; after the transfusion haemoglobin and haematocrit rose.
"""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "medical.txt"
    path.write_text(TEXT * 3, encoding="utf-8")
    return str(path)


def extend(model: Path, out: Path, **options: Any) -> dict[str, torch.Tensor]:
    execute(plan_extend_vocab(ExtendVocabSettings(model=str(model), out=out, **options)), out, threads=1)
    return load_file(out / "model.safetensors")


def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def test_old_tensors_and_rows_keep_their_bytes(stories: Path, tmp_path: Path, corpus: str) -> None:
    out = tmp_path / "out"
    after = extend(stories, out, corpus=[corpus], add=20)
    before = load_file(stories / "model.safetensors")
    assert after.keys() == before.keys()
    assert after[EMBEDDING].shape == (532, 64)
    assert torch.equal(after.pop(EMBEDDING)[:512], before[EMBEDDING])
    assert all(torch.equal(after[name], before[name]) for name in after)
    config = json.loads((out / "config.json").read_text())
    assert config == json.loads((stories / "config.json").read_text()) | {"vocab_size": 532}
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.rows is not None and lineage.kind == "surgery"
    assert (lineage.rows.old, lineage.rows.rows, [row.id for row in lineage.rows.new]) == (
        512, 532, list(range(512, 532)),
    )  # fmt: skip
    assert (out / "surgeon" / str(lineage.rows.weights)).is_file()
    assert list(lineage.initial) == [EMBEDDING]


def test_logits_of_old_ids_stay_and_greedy_text_is_the_same(stories: Path, tmp_path: Path, corpus: str) -> None:
    """Convex rows never win: the old model's text, token by token (and its logits, bit by bit)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = AutoTokenizer.from_pretrained(stories)("Once upon a time there was a girl")["input_ids"]
    before = logits(stories, prompt)
    plain = AutoModelForCausalLM.from_pretrained(stories)
    text = plain.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)
    for init in ("mean", "convex_hull", "subword_mean"):
        out = tmp_path / init
        extend(stories, out, corpus=[corpus], add=20, init=init)
        after = logits(out, prompt)
        assert torch.equal(after[:, :512], before)
        assert bool((after.max(1).values == before.max(1).values).all())
        model = AutoModelForCausalLM.from_pretrained(out)
        assert torch.equal(model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False), text)


@pytest.mark.parametrize("init", ["subword_mean", "convex_hull", "mean", "cw2v"])
def test_the_certificate_holds_and_a_changed_row_breaks_it(
    stories: Path, tmp_path: Path, corpus: str, init: str
) -> None:
    out = tmp_path / "out"
    after = extend(stories, out, corpus=[corpus], add=20, init=init, pad_to_multiple_of=64)
    report = check_hull(Checkpoint.open(out))
    assert report.claimed and report.holds
    assert [(m.tensor, m.rows, m.reproduced) for m in report.matrices] == [
        (EMBEDDING, 20, True),
        (EMBEDDING, 44, True),
    ]
    assert all(m.least_weight >= 0 and m.sum_error <= 1e-12 for m in report.matrices)
    after[EMBEDDING][515, 3] += 1e-6
    save_file(after, out / "model.safetensors")
    broken = check_hull(Checkpoint.open(out))
    assert not broken.holds
    assert [m.reproduced for m in broken.matrices] == [False, True]


def test_dense_inits_are_written_as_they_are(stories: Path, tmp_path: Path, corpus: str) -> None:
    for init in ("gaussian", "random", "zero"):
        rows = extend(stories, tmp_path / init, corpus=[corpus], add=20, init=init)[EMBEDDING][512:]
        assert bool(torch.isfinite(rows).all())
        assert bool((rows == 0).all()) == (init == "zero")
        assert not check_hull(Checkpoint.open(tmp_path / init)).claimed


@pytest.mark.material
def test_untied_matrices_have_inits_of_their_own(material: Path, tmp_path: Path) -> None:
    base, out = material / "models" / "base", tmp_path / "out"
    text = str(material / "corpora" / "ta.valid.jsonl")
    after = extend(base, out, corpus=[text], add=100, init="subword_mean", init_output="convex_hull")
    before = load_file(base / "model.safetensors")
    for name in (EMBEDDING, HEAD):
        assert torch.equal(after[name][:4096], before[name])
        assert after[name].shape == (4196, 256)
    report = check_hull(Checkpoint.open(out))
    assert report.holds and [m.tensor for m in report.matrices] == [EMBEDDING, HEAD]
    assert all(m.reproduced for m in report.matrices)
    # bfloat16 rows may tie with the best old row, never pass it by more than their rounding
    values = logits(out, list(range(300, 400)))
    assert bool((values[:, 4096:].max(1).values <= values[:, :4096].max(1).values).all())


def test_padding_is_used_and_what_is_left_of_it_stays(stories: Path, tmp_path: Path, corpus: str) -> None:
    """A matrix with more rows than tokens: new ids take padding rows, the matrix does not shrink."""
    padded = tmp_path / "padded"
    shutil.copytree(stories, padded)
    tensors = load_file(stories / "model.safetensors")
    tensors[EMBEDDING] = torch.cat([tensors[EMBEDDING], torch.full((48, 64), 9.0)])
    save_file(tensors, padded / "model.safetensors")
    config = json.loads((padded / "config.json").read_text())
    (padded / "config.json").write_text(json.dumps(config | {"vocab_size": 560}))
    rows = extend(padded, tmp_path / "out", corpus=[corpus], add=20, init="mean", use_padding=True)[EMBEDDING]
    assert torch.equal(rows[:512], tensors[EMBEDDING][:512])
    assert torch.equal(rows[532:], tensors[EMBEDDING][532:])
    assert len(rows) == 560
    torch.testing.assert_close(rows[512], tensors[EMBEDDING][3:512].mean(0), rtol=0, atol=0.01)
    lineage = Checkpoint.open(tmp_path / "out").lineage
    assert lineage is not None and lineage.rows is not None
    assert (lineage.rows.old, lineage.rows.rows) == (560, 560)
    assert [row.id for row in lineage.rows.new] == list(range(512, 532))
    report = check_hull(Checkpoint.open(tmp_path / "out"))
    assert report.holds and [m.reproduced for m in report.matrices] == [True]


@pytest.mark.parametrize(
    "family", ["gpt2", "gpt_neox", "gemma2", "gemma3_text", "qwen2", "phi3", "olmo2", "qwen3_moe"]
)
def test_other_families_load_and_keep_their_logits(stories: Path, tmp_path: Path, corpus: str, family: str) -> None:
    model, out = build(family, tmp_path / "model", vocab_size=520), tmp_path / "out"
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(stories / name, model / name)
    extend(model, out, corpus=[corpus], add=20, init="convex_hull", pad_to_multiple_of=8, use_padding=True)
    prompt = list(range(5, 105, 7))
    before, after = logits(model, prompt), logits(out, prompt)
    assert after.shape[1] == 536
    assert torch.allclose(after[:, :512], before[:, :512], rtol=0, atol=1e-5)
    assert bool((after[:, 512:].max(1).values <= after[:, :512].max(1).values).all())
    report = check_hull(Checkpoint.open(out))
    assert report.holds and all(m.reproduced for m in report.matrices)


def test_given_tokens_need_no_corpus(stories: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = tmp_path / "tokens.txt"
    path.write_text(" haemoglobin\n anaemia\n", encoding="utf-8")
    extend(stories, tmp_path / "out", tokens=path)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("The haemoglobin in anaemia")
    assert "▁haemoglobin" in tokens and "▁anaemia" in tokens


def test_an_extension_can_be_extended(stories: Path, tmp_path: Path, corpus: str) -> None:
    first = extend(stories, tmp_path / "one", corpus=[corpus], add=10)
    second = extend(tmp_path / "one", tmp_path / "two", corpus=[corpus], add=10)
    assert torch.equal(second[EMBEDDING][:522], first[EMBEDDING])
    assert len(list((tmp_path / "two" / "surgeon").iterdir())) == 2
    assert check_hull(Checkpoint.open(tmp_path / "two")).holds


def test_a_saved_plan_gives_the_same_bytes(stories: Path, tmp_path: Path, corpus: str) -> None:
    settings = ExtendVocabSettings(
        model=str(stories), out=tmp_path / "a", corpus=[corpus], add=20, init="gaussian", seed=3
    )
    plan = plan_extend_vocab(settings)
    assert plan_extend_vocab(settings).digest == plan.digest
    saved = from_json(json.loads(dump_plan(plan)))
    assert saved.digest == plan.digest
    execute(plan, tmp_path / "a", threads=1)
    execute(saved, tmp_path / "b", threads=2)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer.model", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_wrong_words_are_refused(stories: Path, tmp_path: Path, corpus: str) -> None:
    tokens = tmp_path / "tokens.txt"
    tokens.write_text(" haemoglobin\n", encoding="utf-8")
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "one of --add, --tokens and --tokens-of"),
        ({"add": 5}, "learned from a corpus"),
        ({"add": 5, "tokens": tokens, "corpus": [corpus]}, "one of --add, --tokens and --tokens-of"),
        ({"add": 5, "corpus": [corpus], "init": "meen"}, "no init 'meen'"),
        ({"add": 5, "corpus": [corpus], "init": "mean", "option": {"scale": 1}}, "no option 'scale'"),
        ({"tokens": tokens, "init": "cw2v"}, "reads the target text"),
        ({"add": 5, "corpus": [corpus], "option": {"sd": 1}, "init_output": "random"}, "init that is not named"),
        ({"tokens": tokens, "min_count": 3}, "--min-count is for tokens that are learned"),
        ({"tokens": tokens, "script": "Latin"}, "--script is for tokens that are learned"),
    ]
    for options, reason in cases:
        with pytest.raises(UsageError, match=reason):
            plan_extend_vocab(ExtendVocabSettings(model=str(stories), out=tmp_path / "out", **options))
    with pytest.raises(pydantic.ValidationError):
        ExtendVocabSettings(model=str(stories), out=tmp_path / "out", ad=5)  # type: ignore[call-arg]
    with pytest.raises(SurgeonError, match="is an input"):  # before anything is learned
        plan_extend_vocab(ExtendVocabSettings(model=str(stories), out=stories, add=5, corpus=["absent.txt"]))
    with pytest.raises(SurgeonError, match="no such corpus"):
        plan_extend_vocab(ExtendVocabSettings(model=str(stories), out=tmp_path, add=5, corpus=["absent.txt"]))


@pytest.mark.parametrize(("dtype", "sd"), [("float32", 1e39), ("float16", 1e5)])
def test_rows_beyond_the_range_of_the_matrix_are_refused(
    stories: Path, tmp_path: Path, corpus: str, dtype: str, sd: float
) -> None:
    model = build("llama", tmp_path / "model", dtype, vocab_size=512)
    for path in stories.glob("tokenizer*"):
        shutil.copyfile(path, model / path.name)
    with pytest.raises(SurgeonError, match="cannot hold"):
        extend(model, tmp_path / "out", corpus=[corpus], add=5, init="random", option={"sd": sd})
    assert not (tmp_path / "out").exists()


def test_the_input_rows_beside_a_chosen_output_init_are_the_default_ones() -> None:
    settings = ExtendVocabSettings(model="m", out=Path("o"), add=5, corpus=["c"], init_output="mean")
    assert chosen_inits(settings) == (Use("weighted_pieces", {}), Use("mean", {}))


def test_byte_fallback_without_all_bytes_is_refused(stories: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(stories, model)
    (model / "tokenizer.model").unlink(missing_ok=True)
    text = (model / "tokenizer.json").read_text(encoding="utf-8")
    for byte, refused in (("<0xC0>", False), ("<0xE0>", True)):  # the first stands in no UTF-8
        (model / "tokenizer.json").write_text(text.replace(f'"{byte}"', '"<gone>"'), encoding="utf-8")
        reason = r"lacks 1 of them, such as <0xE0>" if refused else "no such corpus"
        with pytest.raises(SurgeonError, match=reason):
            plan_extend_vocab(
                ExtendVocabSettings(model=str(model), out=tmp_path / "out", add=5, corpus=["absent.txt"])
            )


def test_a_tokenizer_of_another_model_is_refused(stories: Path, tmp_path: Path, corpus: str) -> None:
    folder = tmp_path / "small"
    shutil.copytree(stories, folder)
    tensors = load_file(stories / "model.safetensors")
    tensors[EMBEDDING] = tensors[EMBEDDING][:500].clone()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(SurgeonError, match="ids up to 511, the embedding has 500 rows"):
        plan_extend_vocab(ExtendVocabSettings(model=str(folder), out=tmp_path / "out", add=5, corpus=[corpus]))
