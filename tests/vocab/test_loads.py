"""How the files load elsewhere, files that a tokenizer.json is made from, and tiny models with every kind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from kinds_material import GREEK, KINDS, build, lines
from safetensors.torch import load_file
from tiny import build as build_model
from tokenizers import Tokenizer

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.ops.execute import execute
from surgeon.vocab.loads import llama_cpp_hash, load_notes, read_both
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.probe_texts import HARD_TEXTS
from surgeon.vocab.promise import check_promise
from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.vocab.tokenizer_files import TokenizerFiles, extend_files
from surgeon.vocab.tokenizer_json import TokenizerFile

EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.material
def test_the_hash_is_the_one_that_llama_cpp_lists(material: Path) -> None:
    """The values of gpt-2 and qwen2 in llama.cpp's convert_hf_to_gguf.py (get_vocab_base_pre)."""
    known = {
        "gpt2": "3ce83efda5659b07b1ad37ca97ca5797ea4285d9b9ab0dc679e4a720c9da7454",
        "qwen2": "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea",
    }
    for name, digest in known.items():
        assert llama_cpp_hash(TokenizerFile.open(material / "tokenizers" / name)) == digest


@pytest.mark.material
def test_what_llama_cpp_will_not_recognise_is_said(material: Path) -> None:
    folder = material / "tokenizers" / "minimind-6400"
    old = TokenizerFile.open(folder)
    made, merges, pieces = [], [], [old.ids[i] for i in old.load().encode("multiple").ids]
    while len(pieces) > 1:
        merges.append((pieces[0], pieces[1]))
        pieces = [pieces[0] + pieces[1], *pieces[2:]]
        made.append(pieces[0])
    files = extend_files(folder, old, made, merges)
    assert llama_cpp_hash(files.file) != llama_cpp_hash(old)
    said = [note for note in load_notes(folder, old, files) if "llama.cpp" in note]
    assert len(said) == 1 and "'multiple'" in said[0]
    assert not any("llama.cpp" in note for note in load_notes(folder, old, extend_files(folder, old, ["qzqzq"], [])))


@pytest.mark.parametrize("kind", KINDS)
def test_auto_tokenizer_reads_the_extended_files_alike(tmp_path: Path, kind: str) -> None:
    folder = build(kind, tmp_path / kind)
    old = TokenizerFile.open(folder)
    word = "haemoglobin" if kind == "wordpiece" else "▁haemoglobin"
    assert load_notes(folder, old, extend_files(folder, old, [word], []), [GREEK]) == []
    holes = load_notes(folder, old, extend_files(folder, old, [word], [], old.next_id + 2))
    assert [("stay without a token" in note) for note in holes] == ([True] if kind == "wordpiece" else [])


def test_a_class_that_rebuilds_the_tokenizer_is_noted(tmp_path: Path) -> None:
    """XLM-R's class takes the unknown id for 3 and splits at white space, whatever tokenizer.json says."""
    folder = build("unigram", tmp_path / "unigram")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "XLMRobertaTokenizer"}))
    old = TokenizerFile.open(folder)
    reading = read_both(folder, old, HARD_TEXTS)
    assert reading.name == "XLMRobertaTokenizer" and reading.differs
    notes = load_notes(folder, old, extend_files(folder, old, ["▁haemoglobin"], []))
    assert any("as it did before" in note for note in notes)
    # what reads alike before and otherwise after the extension is told apart from that
    broken = old.extended(["▁haemoglobin"], [])
    other = replace(broken, data=broken.data | {"normalizer": None})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    files = TokenizerFiles(other, {"tokenizer.json": broken.text()})
    assert any("which it did not before" in note for note in load_notes(folder, old, files))


@pytest.mark.parametrize("kind", ["unigram", "unigram_bytes"])
def test_a_sentencepiece_model_alone_is_enough(tmp_path: Path, kind: str) -> None:
    folder = build(kind, tmp_path / kind)
    (folder / "tokenizer.json").unlink()
    made = TokenizerFile.open(folder)
    assert made.made_from == ("tokenizer.model",)
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    text = [*lines("general.valid"), *lines("domain.valid"), GREEK, *(t for t in HARD_TEXTS if "<" not in t)]
    assert [e.ids for e in made.load().encode_batch(text, add_special_tokens=False)] == pieces.encode(text)
    notes = load_notes(folder, made, extend_files(folder, made, ["▁haemoglobin"], []))
    assert any("was made from tokenizer.model" in note for note in notes)


def test_the_story_model_without_tokenizer_json(stories: Path, tmp_path: Path) -> None:
    """SentencePiece BPE: the same ids as the tokenizer.json that was there."""
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(stories / name, tmp_path / name)
    made, held = TokenizerFile.open(tmp_path), TokenizerFile.open(stories)
    assert made.vocab == held.vocab and made.special_ids == held.special_ids
    for text in (*lines("general.valid"), *(t for t in HARD_TEXTS if "<" not in t)):
        assert made.load().encode(text).ids == held.load().encode(text).ids


def test_what_nothing_can_be_made_from_is_refused(tmp_path: Path) -> None:
    def folder(name: str, source: str, **config: Any) -> Path:
        place = build(source, tmp_path / name)
        (place / "tokenizer.json").unlink()
        text = json.loads((place / "tokenizer_config.json").read_text()) | config
        (place / "tokenizer_config.json").write_text(json.dumps(text))
        return place

    empty = tmp_path / "empty"
    empty.mkdir()
    python = folder("python", "wordpiece", tokenizer_class="BertJapaneseTokenizer")
    foreign = folder("foreign", "wordpiece", tokenizer_class="LlamaTokenizer")
    code = folder("code", "unigram", auto_map={"AutoTokenizer": ["tok.Tok", None]})
    cut = folder("cut", "unigram")
    (cut / "tokenizer.model").write_bytes((cut / "tokenizer.model").read_bytes()[:-7])
    ranks = folder("ranks", "unigram")
    (ranks / "tokenizer.model").write_text("IQ== 0\n")
    for place, reason in [
        (empty, "nothing that one can be made from"),
        (python, "in Python alone"),
        (foreign, "does not read vocab.txt"),
        (code, "code of its own"),
        (cut, "cannot load|damaged"),
        (ranks, "tiktoken"),
    ]:
        with pytest.raises(SurgeonError, match=reason) as refused:
            TokenizerFile.open(place)
        assert all("\n" not in line for line in (refused.value.problem, refused.value.where, refused.value.hint))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [False, True])
def test_a_model_of_every_kind_goes_through(tmp_path: Path, kind: str, padding: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, out = build_model("llama", tmp_path / "model", vocab_size=904), tmp_path / "out"
    old = TokenizerFile.open(build(kind, model))
    corpus = tmp_path / "domain.txt"
    corpus.write_text("\n".join(lines("domain.train")), encoding="utf-8")
    keep = tmp_path / "keep.txt"
    keep.write_text("\n".join(lines("general.valid", 40)), encoding="utf-8")
    settings = ExtendVocabSettings(
        model=str(model),
        out=out,
        corpus=[str(corpus)],
        add=40,
        keep_corpus=[str(keep)],
        lines=True,
        use_padding=padding,
    )
    execute(plan_extend_vocab(settings), out, threads=1)
    first = old.next_id if padding else 904
    tokenizer = AutoTokenizer.from_pretrained(out)
    plain = Tokenizer.from_file(str(out / "tokenizer.json"))
    text = lines("domain.valid", 60)
    ids = [tokenizer(t)["input_ids"] for t in text]
    assert ids == [e.ids for e in plain.encode_batch(text)]
    assert max(map(max, ids)) >= first
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.rows is not None and lineage.rows.learning is not None
    assert [row.id for row in lineage.rows.new] == list(range(first, first + 40))
    assert lineage.rows.learning["promise"] == old.promise
    assert lineage.rows.learning["keep"] == {"texts": 40, "identical": 40}
    before, after = (load_file(f / "model.safetensors")[EMBEDDING] for f in (model, out))
    assert len(after) == max(904, first + 40)
    assert torch.equal(before[:900], after[:900])
    logits = AutoModelForCausalLM.from_pretrained(out)(torch.tensor([ids[0]])).logits
    assert logits.shape[-1] == len(after) and bool(torch.isfinite(logits).all())
    assert all(check.holds for check in check_promise(model, out, lines("domain.valid", 20)))
