"""WECHSEL: hand-computed weights, a rotation undone by a dictionary, and a language that is English reversed."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from static_material import Said, new_of, tokenizer_file, write_vec
from vocab_material import documents

from surgeon.errors import SurgeonError, UsageError
from surgeon.progress import SILENT
from surgeon.vocab.given import given_tokens
from surgeon.vocab.hull import Combination
from surgeon.vocab.inits.wechsel import wechsel
from surgeon.vocab.kinds.wordpiece import WordPieceFile
from surgeon.vocab.token_text import text_token
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens, old_pieces
from surgeon.vocab.vec_file import WordVectors, read_dictionary, read_vec
from surgeon.vocab.word_spans import _inside, piece_bytes, words_with_tokens
from surgeon.vocab.word_vectors import by_own_encoding, by_text, rotation

OLD = tokenizer_file(["<s>", "▁blood", "▁heart", "▁table", "▁a"])


def random_orthogonal(size: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def test_hand_computed_weights(tmp_path: Path) -> None:
    """Cosines 1, 0.6, 0 of blood, heart, table to Herz; two neighbours: softmax of 10 and 6."""
    source = write_vec(tmp_path / "en.vec", {"blood": [2, 0], "heart": [3, 4], "table": [0, 1], "lamp": [1, 0]})
    target = write_vec(tmp_path / "de.vec", {"herz": [9, 0], "tisch": [0, 1]})
    new = new_of(5, ["▁Herz", "▁Unbekannt"], [[2], [1, 4]], [1, 2, 3, 4], [[5, 4, 5], [6, 5]])
    said = Said()
    found = wechsel(new, OLD, said, source_vectors=source, target_vectors=target, neighbours=2)
    assert isinstance(found, Combination)
    found.check(5, "wechsel")
    high = float(1 / (1 + np.exp(-4.0)))
    assert found.indices.tolist() == [1, 2, 1, 4]
    torch.testing.assert_close(
        found.weights, torch.tensor([high, 1 - high, 0.5, 0.5], dtype=torch.float64), rtol=0, atol=1e-7
    )
    assert said.lines == ["wechsel: 1 of 2 new tokens have no vector: the mean of their pieces instead"]
    for options, reason in [
        ({"neighbours": 4}, "4 neighbours are asked for, 3 old tokens have a vector"),
        ({"neighbours": 0}, "must be above zero"),
        ({"temperature": 0.0}, "must be above zero"),
        ({"max_tokens": 0}, "max_tokens"),
    ]:
        with pytest.raises(UsageError, match=reason):
            wechsel(new, OLD, SILENT, source_vectors=source, target_vectors=target, **options)  # type: ignore[arg-type]


def test_a_token_is_the_frequency_weighted_mean_of_its_words(tmp_path: Path) -> None:
    words = WordVectors(tmp_path, {"heart": 0, "hearts": 1, "blood": 2}, np.eye(3, dtype=np.float32))
    file = tokenizer_file(["▁heart", "s", "▁blood", "ist"])
    pieces = piece_bytes(file, new_of(4, ["▁Heart"], [[0]], [0]))
    text = [[0, 1, 2, 0, 1], [4, 4, 1, 4], [3, 2], [0]]  # hearts blood hearts; Heart Hearts Heart; ist blood; heart
    found = by_text(words, pieces, {0, 1, 4}, text)
    assert found.ids.tolist() == [0, 1, 4]
    expected = np.array([[1, 2, 0], [0, 3, 0], [2, 1, 0]], dtype=np.float64)
    np.testing.assert_allclose(found.vectors, expected / np.linalg.norm(expected, axis=1)[:, None], atol=1e-15)


def test_pieces_of_every_kind_stand_for_their_bytes(tmp_path: Path) -> None:
    """A byte-fallback piece for its byte, an added token for its text, a WordPiece word for a space and itself."""
    plain = tokenizer_file(["<0xE0>", "▁a", "<s>"])
    model = plain.model | {"byte_fallback": True}
    added = [{"id": 2, "content": "<s>", "special": True}]
    file = TokenizerFile(plain.path, plain.data | {"model": model, "added_tokens": added})
    assert piece_bytes(file, new_of(3, ["▁ä▁"], [[1]], [1])) == {0: b"\xe0", 1: b" a", 2: b"<s>", 3: " ä ".encode()}
    model = {"type": "WordPiece", "vocab": {"[UNK]": 0, "heart": 1, "##s": 2}, "unk_token": "[UNK]"}
    word_piece = WordPieceFile(tmp_path, {"model": model})
    pieces = piece_bytes(word_piece, new_of(3, ["##ily", "blood"], [[2], [1]], [1]))
    assert list(words_with_tokens([1, 2, 4, 1, 3], pieces, {1, 2, 3})) == [("hearts", [1, 2]), ("heartily", [1, 3])]


def test_an_old_token_weighs_words_by_their_rank(tmp_path: Path) -> None:
    """The two ways to write a word, alone and after a space, both count, as in the paper's code."""
    file = tokenizer_file(["▁a", "▁b"])
    words = WordVectors(tmp_path, {"a b": 0, "b": 1, "c": 2}, np.eye(3, dtype=np.float32))
    found = by_own_encoding(words, file)
    assert found.ids.tolist() == [0, 1]
    expected = np.array([1, 0.5, 0]) / np.linalg.norm([1, 0.5, 0])
    np.testing.assert_allclose(found.vectors, [[1, 0, 0], expected], atol=1e-15)


def test_the_rotation_is_that_of_scipy_and_pairs_count_in_every_case(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    names = [f"w{i}" for i in range(40)]
    left = WordVectors(tmp_path, {n: i for i, n in enumerate(names)}, rng.normal(size=(40, 12)).astype(np.float32))
    right = WordVectors(tmp_path, {n.upper(): i for i, n in enumerate(names)}, rng.normal(size=(40, 12)).astype("f4"))
    pairs = [(n, n.upper()) for n in names]
    turn, num = rotation(left, right, [*pairs, ("absent", "W1"), *pairs])
    assert num == 40  # W1 in lower case is not there; w1.title() is W1 and not in the source
    expected = orthogonal_procrustes(left.vectors.astype(np.float64), right.vectors.astype(np.float64))[0]
    np.testing.assert_allclose(turn.numpy(), expected, atol=1e-12)
    with pytest.raises(SurgeonError, match="no pair of the dictionary"):
        rotation(left, right, [("absent", "W1")])


def test_a_dictionary_undoes_any_rotation_of_one_language(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    old = [f"▁o{i}" for i in range(30)]
    file = tokenizer_file(old)
    english = {t[1:]: rng.normal(size=8) for t in old}
    foreign = {f"n{i}": english[f"o{i}"] + 0.3 * rng.normal(size=8) for i in range(30)}
    new = new_of(30, [f"▁n{i}" for i in range(5)], [[0]] * 5, range(30), [list(range(30, 35))])
    target = write_vec(tmp_path / "target.vec", foreign)
    dictionary = tmp_path / "pairs.txt"
    dictionary.write_text("".join(f"o{i}{' ' if i % 2 else chr(9)}n{i}\n" for i in range(30)), encoding="utf-8")
    found = []
    for seed in (5, 6):
        turn = random_orthogonal(8, seed)
        source = write_vec(tmp_path / f"{seed}.vec", {word: vector @ turn for word, vector in english.items()})
        found += [
            wechsel(new, file, SILENT, source_vectors=source, target_vectors=target, dictionary=pairs)
            for pairs in (dictionary, None)
        ]
    embed = torch.randn(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, plain_one, two, plain_two = (f.rows(embed) for f in found)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)  # the files hold float32
    assert float((plain_one - plain_two).abs().max()) > 0.1
    best = [
        int(found[0].indices[n * 10 : n * 10 + 10][found[0].weights[n * 10 : n * 10 + 10].argmax()]) for n in range(5)
    ]
    assert best == [0, 1, 2, 3, 4]


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    two, three = write_vec(tmp_path / "2.vec", {"blood": [1, 0]}), write_vec(tmp_path / "3.vec", {"blood": [1, 0, 0]})
    new = new_of(5, ["▁x"], [[1]], [1], [[5]])
    with pytest.raises(SurgeonError, match="2 dimensions here, 3 in"):
        wechsel(new, OLD, SILENT, source_vectors=two, target_vectors=three)
    path = tmp_path / "pairs.txt"
    for text, reason in [("a b\nc\n", "not two words"), ("a\tb\tc\n", "not two words"), ("a \n", "not two words")]:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SurgeonError, match=reason):
            read_dictionary(path)
    path.write_text("ice cream\thelado\nsun sol\n", encoding="utf-8")
    assert read_dictionary(path) == [("ice cream", "helado"), ("sun", "sol")]


@pytest.mark.material
@pytest.mark.parametrize(
    "name", ["models/base", "tokenizers/gpt2", "tokenizers/mistral-v1", "tokenizers/minimind-6400"]
)
def test_the_words_of_ids_are_the_words_of_the_text(material: Path, name: str) -> None:
    """And their tokens are those whose places in the text, as tokenizers tells them, meet the word (but for the space
    that SentencePiece puts before a text, whose place it says is the first letter's)."""
    file = TokenizerFile.open(material / name)
    tokenizer = file.load()
    pieces = piece_bytes(file, NewTokens((), (), (), ()))
    wanted, seen = set(file.ids), 0
    for corpus in ("ta", "ja", "hi", "medical_en", "code_py"):
        for text in documents(material, corpus, 2):
            encoded = tokenizer.encode(text[:1200], add_special_tokens=False)
            if tokenizer.decode(encoded.ids) != text[:1200]:
                continue  # normalised: the places are those of another text
            expected: list[tuple[str, list[int]]] = []
            place = 0
            for inside, letters in groupby(text[:1200], _inside):
                word = "".join(letters)
                begin, place = place, place + len(word)
                if inside:
                    met = zip(encoded.ids, encoded.offsets, strict=True)
                    held = [i for i, (a, b) in met if a < place and b > begin and pieces[i] != b" "]
                    expected.append((word, list(dict.fromkeys(held))))
            assert list(words_with_tokens(encoded.ids, pieces, wanted)) == expected
            seen += len(expected)
    assert seen > 1000


@pytest.mark.material
def test_english_reversed_finds_its_way_back(material: Path, tmp_path: Path) -> None:
    """A language whose words are English ones spelt backwards, its vectors turned: each new word that is one old
    token in English must lean on that token, by the dictionary of other words alone."""
    old = TokenizerFile.open(material / "models" / "base")
    texts = documents(material, "general_en", 12)
    counts: dict[str, int] = {}
    for word in "".join(c.lower() if c.isalpha() else " " for c in " ".join(texts)).split():
        counts[word] = counts.get(word, 0) + 1
    english = sorted((w for w in counts if len(w) > 2), key=lambda w: (-counts[w], w))[:2000]
    rng = np.random.default_rng(7)
    vectors = {word: rng.normal(size=40) for word in english}
    turn = random_orthogonal(40, 8)
    source = write_vec(tmp_path / "en.vec", vectors)
    target = write_vec(tmp_path / "ne.vec", {w[::-1]: v @ turn for w, v in vectors.items() if w[::-1] not in vectors})
    single = [w for w in english if f"▁{w}" in old.vocab and text_token(old, f" {w[::-1]}") not in old.vocab][:60]
    dictionary = tmp_path / "pairs.txt"
    dictionary.write_text("".join(f"{w}\t{w[::-1]}\n" for w in english if w not in single), encoding="utf-8")
    learned = given_tokens(old, [f" {w[::-1]}" for w in single])
    file = old.extended(learned.tokens, learned.merges)
    ids = tuple(range(4096, 4096 + len(learned.tokens)))
    text = " ".join(w[::-1] for w in single)
    tokenizer = file.load()
    sequences = [tokenizer.encode(text).ids]
    new = NewTokens(learned.tokens, ids, old_pieces(old, learned.tokens), tuple(range(3, 4096)), lambda: sequences)
    found = wechsel(new, old, SILENT, source_vectors=source, target_vectors=target, dictionary=dictionary)
    right = 0
    for word in single:
        n = learned.tokens.index(text_token(old, f" {word[::-1]}"))
        row = slice(int(found.offsets[n]), int(found.offsets[n + 1]))
        right += int(found.indices[row][found.weights[row].argmax()]) == old.vocab[f"▁{word}"]
    assert len(single) == 60
    assert right == 60
    assert read_vec(source).vectors.shape == (2000, 40)
