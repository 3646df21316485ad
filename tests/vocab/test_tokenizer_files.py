"""The edited files as the libraries read them: transformers' Auto classes, tokenizers, sentencepiece."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from vocab_material import CASES, extended, lines, write

from surgeon.errors import SurgeonError
from surgeon.vocab.tokenizer_files import extend_files
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokenizer_model import read_model

CLASSES = [
    ("models/stories260K", "medical_en", "LlamaTokenizer"),
    ("tokenizers/mistral-v1", "ta", "LlamaTokenizer"),
    ("tokenizers/qwen2", "medical_en", "Qwen2Tokenizer"),
    ("tokenizers/gpt2", "ta", "GPT2Tokenizer"),
    ("models/base", "ta", "PreTrainedTokenizerFast"),
    ("tokenizers/minimind-6400", "medical_en", "PreTrainedTokenizerFast"),
]


@pytest.mark.material
@pytest.mark.parametrize(("tokenizer", "target", "kind"), CLASSES)
def test_auto_tokenizer_gives_the_ids_of_the_file(
    material: Path, tmp_path: Path, tokenizer: str, target: str, kind: str
) -> None:
    """Also for classes that transformers rebuilds from vocabulary and merges alone."""
    from transformers import AutoTokenizer

    old, _, files = extended(material, tokenizer, target)
    folder = write(tmp_path / "new", material / tokenizer, files, tokenizer_class=kind)
    auto = AutoTokenizer.from_pretrained(folder, model_max_length=10**9)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = (*lines(material, target, 80), *lines(material, "general_en", 40))
    ids = [plain.encode(text).ids for text in texts]
    assert [auto(text)["input_ids"] for text in texts] == ids
    assert max(i for row in ids for i in row) >= old.next_id
    special = AutoTokenizer.from_pretrained(write(tmp_path / "old", material / tokenizer, None, tokenizer_class=kind))
    assert auto.special_tokens_map == special.special_tokens_map
    assert auto.all_special_ids == special.all_special_ids


@pytest.mark.material
def test_the_chat_template_gives_the_same_conversation(material: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    name = "tokenizers/minimind-6400"
    _, learned, files = extended(material, name, "medical_en")
    before = AutoTokenizer.from_pretrained(write(tmp_path / "old", material / name))
    after = AutoTokenizer.from_pretrained(write(tmp_path / "new", material / name, files))
    word = learned.tokens[-1].replace("Ġ", "")
    talk = [{"role": "user", "content": f"What is {word}?"}, {"role": "assistant", "content": "I do not know."}]
    text = before.apply_chat_template(talk, tokenize=False)
    assert after.apply_chat_template(talk, tokenize=False) == text
    ids, old_ids = after(text)["input_ids"], before(text)["input_ids"]
    assert after.decode(ids) == before.decode(old_ids)
    specials = set(before.all_special_ids)
    assert [i for i in ids if i in specials] == [i for i in old_ids if i in specials] != []


@pytest.mark.material
@pytest.mark.parametrize(("tokenizer", "target"), CASES[:4])
def test_sentencepiece_gives_the_ids_of_tokenizers(
    material: Path, tmp_path: Path, tokenizer: str, target: str
) -> None:
    import sentencepiece

    old, learned, files = extended(material, tokenizer, target)
    texts = (*lines(material, target), *lines(material, "general_en"))
    agreed = {}
    for name, source, file in (("old", material / tokenizer, old), ("new", None, files.file)):
        folder = write(tmp_path / name, material / tokenizer, None if source else files)
        pieces = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
        plain = file.load()
        rows = [(pieces.encode(text), plain.encode(text, add_special_tokens=False).ids) for text in texts]
        agreed[name] = [a == b for a, b in rows]
    assert all(new for before, new in zip(agreed["old"], agreed["new"], strict=True) if before)
    assert sum(agreed["old"]) > 0.95 * len(texts)
    assert max(i for row, _ in rows for i in row) >= old.next_id
    assert pieces.get_piece_size() == old.next_id + len(learned.tokens)
    assert [pieces.id_to_piece(old.next_id + k) for k in range(len(learned.tokens))] == list(learned.tokens)


def test_old_pieces_of_the_model_keep_their_bytes(stories: Path, tmp_path: Path) -> None:
    old = TokenizerFile.open(stories)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(extend_files(stories, old, ["zq", "▁zq"], [("z", "q"), ("▁", "zq")]).binary["tokenizer.model"])
    before, after = read_model(stories / "tokenizer.model"), read_model(path)
    num = len(before.pieces)
    assert list(after.pieces)[:num] == list(before.pieces)
    assert (after.normalizer_spec, after.denormalizer_spec) == (before.normalizer_spec, before.denormalizer_spec)
    scores = [p.score for p in after.pieces[num:]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] < min(p.score for p in before.pieces)


def test_nothing_but_vocabulary_and_merges_changes(stories: Path) -> None:
    old = TokenizerFile.open(stories)
    new = old.extended(["zq"], [("z", "q")]).data
    assert {k: v for k, v in new.items() if k != "model"} == {k: v for k, v in old.data.items() if k != "model"}
    for key in new["model"].keys() - {"vocab", "merges"}:
        assert new["model"][key] == old.model[key]
    assert new["model"]["merges"][: len(old.merges)] == old.model["merges"]


@pytest.mark.material
def test_older_files_say_the_same(material: Path, tmp_path: Path) -> None:
    """GPT-2's vocab.json and merges.txt give the same ids as tokenizer.json."""
    from tokenizers import models, pre_tokenizers

    source = material / "tokenizers" / "gpt2"
    _, _, files = extended(material, "tokenizers/gpt2", "ta")
    folder = write(tmp_path / "new", source, files)
    slow = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    slow.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in lines(material, "ta", 50):
        assert slow.encode(text).ids == fast.encode(text).ids


def test_contradicting_and_foreign_files_are_refused(stories: Path, tmp_path: Path) -> None:
    data = json.loads((stories / "tokenizer.json").read_text(encoding="utf-8"))
    for change, reason in [
        ({"type": "Unigram", "vocab": []}, "only BPE"),
        ({"end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
        ({"byte_fallback": False}, "neither"),
    ]:
        folder = tmp_path / reason.replace(" ", "_")
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps(data | {"model": data["model"] | change}), encoding="utf-8")
        with pytest.raises(SurgeonError, match=reason):
            TokenizerFile.open(folder)
    folder = write(tmp_path / "swapped", stories)
    vocab = data["model"]["vocab"]
    by_id = sorted(vocab, key=lambda token: vocab[token])
    vocab[by_id[300]], vocab[by_id[301]] = 301, 300
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SurgeonError, match="disagree at id 300"):
        extend_files(folder, TokenizerFile.open(folder), ["zq"], [("z", "q")])
