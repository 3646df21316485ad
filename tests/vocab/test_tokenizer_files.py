"""The edited files as the libraries read them: transformers' Auto classes, tokenizers, sentencepiece."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

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


def changed(folder: Path, source: Path, **model: Any) -> Path:
    """The tokenizer.json of `source` with other entries of `model` (or, with _, of the file)."""
    data = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    of_file = {k.removeprefix("_"): model.pop(k) for k in list(model) if k.startswith("_")}
    folder.mkdir()
    text = json.dumps(data | of_file | {"model": data["model"] | model})
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return folder


def token(content: str, i: int, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": i, "content": content, **plain, **flags}


def test_foreign_and_damaged_files_are_refused_in_three_lines(stories: Path, tmp_path: Path) -> None:
    data = json.loads((stories / "tokenizer.json").read_text(encoding="utf-8"))
    vocab, added = data["model"]["vocab"], data["added_tokens"]
    by_id = sorted(vocab, key=lambda t: vocab[t])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"type": "WordLevel"}, "of type WordLevel, which cannot be extended"),
        ({"end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
        ({"byte_fallback": False}, "neither"),
        ({"vocab": vocab | {"zzz": 7}}, "two tokens have the id 7"),
        ({"vocab": {}}, "no tokens"),
        ({"merges": [*data["model"]["merges"], data["model"]["merges"][0]]}, "merge stands twice"),
        ({"_added_tokens": [*added, token("<x>", 512), token("<x>", 513)]}, "'<x>' stands twice"),
        ({"_added_tokens": [*added, token("<x>", 515)]}, "written with id 515, and read as 512"),
        ({"_added_tokens": [*added, token("<x>", 513), token("<y>", 512)]}, "written with id 513, and read as 512"),
        ({"_added_tokens": [*added, {"content": "<x>"}]}, "lacks its id"),
        ({"type": "Unigram", "vocab": [["a", 0.0], ["a", -1.0]], "unk_id": 0}, "'a' stands twice"),
        ({"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": None, "byte_fallback": False}, "no unknown piece"),
        ({"type": "WordPiece", "unk_token": "[nope]"}, "unknown token"),
    ]
    for number, (change, reason) in enumerate(cases):
        with pytest.raises(SurgeonError, match=re.escape(reason)) as refused:
            TokenizerFile.open(changed(tmp_path / str(number), stories, **change))
        assert all(
            line and "\n" not in line for line in (refused.value.problem, refused.value.where, refused.value.hint)
        )
    for name, text, reason in [
        ("cut", '{"model": {"type"', "not valid JSON"),
        ("twice", '{"a": 1, "a": 2}', "'a' stands twice"),
        ("list", "[1]", "no"),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(text)
        with pytest.raises(SurgeonError, match=reason):
            TokenizerFile.open(tmp_path / name)
    folder = write(tmp_path / "swapped", stories)
    vocab[by_id[300]], vocab[by_id[301]] = 301, 300
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SurgeonError, match="disagree at id 300"):
        extend_files(folder, TokenizerFile.open(folder), ["zq"], [("z", "q")])


LAYOUTS: dict[str, tuple[int, list[tuple[int, dict[str, bool]]]]] = {
    # first id of the model's pieces; ids and flags of added tokens (those below the end take a piece's place)
    "first": (0, [(0, {"special": True}), (1, {"special": True}), (2, {"special": True})]),
    "behind": (0, [(512, {"special": True}), (513, {"normalized": True}), (514, {"lstrip": True, "rstrip": True})]),
    "inside, with gaps": (0, [(5, {"special": True}), (400, {}), (401, {"single_word": True})]),
    "everywhere": (0, [(0, {"special": True}), (300, {"rstrip": True}), (512, {"special": True}), (513, {})]),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("hole", [0, 7])
def test_added_tokens_keep_their_ids_and_flags(stories: Path, tmp_path: Path, name: str, hole: int) -> None:
    old = TokenizerFile.open(stories)
    added = [token(f"<<{i}>>" if i > 511 else old.ids[i], i, **flags) for i, flags in LAYOUTS[name][1]]
    folder = changed(tmp_path / "old", stories, _added_tokens=added)
    file = TokenizerFile.open(folder)
    new = file.extended(["zq", "▁zq"], [("z", "q"), ("▁", "zq")], file.next_id + hole)
    before, after = Tokenizer.from_file(str(folder / "tokenizer.json")), Tokenizer.from_str(new.text())
    assert {i: before.id_to_token(i) for i in file.ids} == {i: after.id_to_token(i) for i in file.ids}
    assert (
        {t: before.token_to_id(t) for t in file.vocab} == {t: after.token_to_id(t) for t in file.vocab} == file.vocab
    )
    flags = [{i: repr(t) for i, t in each.get_added_tokens_decoder().items()} for each in (before, after)]
    assert flags[0] == flags[1] and list(flags[0]) == sorted(i for i, _ in LAYOUTS[name][1])
    assert [after.token_to_id(t) for t in ("zq", "▁zq")] == [file.next_id + hole, file.next_id + hole + 1]
    text = "Once <<512>>upon <<513>> a <<514>> time" + "".join(t["content"] + " x" for t in added)
    assert after.encode(text).ids == before.encode(text).ids
    assert new.data["added_tokens"] == added
    assert file.next_id + hole in after.encode("zq").ids + after.encode("azq").ids
    # an extension is extended
    again = TokenizerFile.open(_saved(tmp_path / "new", new)).extended(["qz"], [("q", "z")])
    assert Tokenizer.from_str(again.text()).token_to_id("qz") == new.next_id


def _saved(folder: Path, file: TokenizerFile) -> Path:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(file.text(), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "how",
    [
        {"indent": 2, "ensure_ascii": False},
        {"indent": 4},
        {"indent": "\t"},
        {"separators": (",", ":")},
        {"separators": (",", ":"), "ensure_ascii": False},
        {},
        {"indent": 0},
    ],
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_layout_of_the_file_stays(stories: Path, tmp_path: Path, how: dict[str, Any], end: str) -> None:
    text = json.dumps(json.loads((stories / "tokenizer.json").read_text(encoding="utf-8")), **how) + end
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    file = TokenizerFile.open(tmp_path)
    assert file.text() == text
    changed_lines = set(file.extended(["zq"], [("z", "q")]).text().split("\n")) - set(text.split("\n"))
    assert len(changed_lines) <= 6


@pytest.mark.material
@pytest.mark.parametrize(
    "name", ["tokenizers/gpt2", "tokenizers/qwen2", "tokenizers/mistral-v1", "tokenizers/minimind-6400"]
)
def test_real_files_are_written_back_byte_for_byte(material: Path, name: str) -> None:
    assert TokenizerFile.open(material / name).text() == (material / name / "tokenizer.json").read_text(
        encoding="utf-8"
    )
