"""Unigram and WordPiece: what is learned, what becomes of old text, and files that other libraries read alike."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import kinds_material
import pytest
import sentencepiece
from kinds_material import GREEK, KINDS, lines, texts

from surgeon.errors import SurgeonError, UsageError
from surgeon.vocab.given_pieces import given_pieces
from surgeon.vocab.kinds.unigram import GAIN, UnigramFile
from surgeon.vocab.kinds.wordpiece import WordPieceFile
from surgeon.vocab.learn import Learned, learn
from surgeon.vocab.piece_words import piece_words
from surgeon.vocab.token_text import token_text
from surgeon.vocab.tokenizer_files import extend_files
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import old_pieces

ADD = 100
Opened = Callable[[str], TokenizerFile]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folders = {kind: tmp_path_factory.mktemp(kind) / "tokenizer" for kind in KINDS}
    return lambda kind: kinds_material.opened(kind, folders[kind])


@pytest.fixture(scope="module")
def learned(opened: Opened) -> Callable[[str], Learned]:
    found: dict[str, Learned] = {}

    def of(kind: str) -> Learned:
        if kind not in found:
            found[kind] = learn(opened(kind), texts("domain.train"), ADD)
        return found[kind]

    return of


def encode(file: TokenizerFile, given: Sequence[str]) -> list[list[int]]:
    return [e.ids for e in file.load().encode_batch(list(given), add_special_tokens=False)]


@pytest.mark.parametrize("kind", KINDS)
def test_new_tokens_are_used_and_reached_and_nothing_old_changes(
    opened: Opened, learned: Callable[[str], Learned], kind: str
) -> None:
    old, tokens = opened(kind), learned(kind).tokens
    new = old.extended(tokens, [])
    assert len(set(tokens)) == ADD and new.unreachable(tokens) == []
    assert [new.load().token_to_id(t) for t in tokens] == list(range(old.next_id, old.next_id + ADD))
    assert all(new.load().id_to_token(i) == token for i, token in old.ids.items())
    used = {i for row in encode(new, texts("domain.train")) for i in row}
    assert used.issuperset(range(old.next_id, old.next_id + ADD))
    # all but model.vocab is the same, and its old entries too
    assert {k: v for k, v in new.data.items() if k != "model"} == {k: v for k, v in old.data.items() if k != "model"}
    assert {k: v for k, v in new.model.items() if k != "vocab"} == {k: v for k, v in old.model.items() if k != "vocab"}
    as_list = [list(v["vocab"].items()) if kind == "wordpiece" else v["vocab"] for v in (old.model, new.model)]
    assert as_list[1][: len(as_list[0])] == as_list[0]
    # held-out text of the domain takes fewer tokens, and comes back where it did
    held_out = lines("domain.valid")
    before, after = encode(old, held_out), encode(new, held_out)
    assert sum(map(len, after)) < 0.85 * sum(map(len, before))
    for text, a, b in zip(held_out, before, after, strict=True):
        if old.load().decode(a) == text:
            assert new.load().decode(b) == text


def expanded(new: TokenizerFile, old: TokenizerFile, tokens: Sequence[str], rows: list[list[int]]) -> list[list[int]]:
    written = dict(zip((new.vocab[t] for t in tokens), old_pieces(old, tokens), strict=True))
    return [[j for i in row for j in written.get(i, (i,))] for row in rows]


@pytest.mark.parametrize("kind", ["unigram", "unigram_bytes"])
def test_the_old_scores_still_decide_where_text_is_cut(
    opened: Opened, learned: Callable[[str], Learned], kind: str
) -> None:
    """Written in old pieces, the new encoding scores at most a GAIN a saved piece (and half) below the old best."""
    old, tokens = opened(kind), learned(kind).tokens
    assert isinstance(old, UnigramFile)
    new = old.extended(tokens, [])
    known = [t for t in (*lines("general.valid"), *lines("domain.valid")) if old.unknown_id not in encode(old, [t])[0]]
    known = [t for t, row in zip(known, encode(old, known), strict=True) if old.byte_ids.keys().isdisjoint(row)]
    before, after = encode(old, known), encode(new, known)
    apart = expanded(new, old, tokens, after)
    assert len(known) > 100
    for a, b, c in zip(before, after, apart, strict=True):
        best, now = (sum(old.scores[i] for i in row) for row in (a, c))
        num_new = sum(i >= old.next_id for i in b)
        assert best + 1e-9 >= now >= best - GAIN * (len(c) - len(b) + num_new / 2) - 1e-9
    same = [a == c for a, c in zip(before, apart, strict=True)]
    assert sum(same) > 0.97 * len(same)


def test_other_scores_cut_old_text_anew(
    opened: Opened, learned: Callable[[str], Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why new pieces get the score of their old ones: with the lowest old score, or those of a fresh model, less old
    text is cut where it was cut, or tokens are out of reach."""
    old, tokens = opened("unigram_bytes"), learned("unigram_bytes").tokens
    assert isinstance(old, UnigramFile)
    words = piece_words(old, texts("domain.train"))
    counts = words.counts(old.extended(tokens, []), tokens)
    ours = old.new_scores(tokens)
    fresh = [math.log(max(counts[t], 1) / words.num_tokens) for t in tokens]
    lowest = [min(old.scores)] * ADD
    text = lines("general.valid")
    before = encode(old, text)
    found = {}
    for name, scores in (("ours", ours), ("fresh", fresh), ("lowest", lowest)):
        monkeypatch.setattr(UnigramFile, "new_scores", lambda self, tokens, scores=scores: scores)
        new = old.extended(tokens, [])
        rows = encode(new, text)
        kept = sum(a == b for a, b in zip(before, expanded(new, old, tokens, rows), strict=True))
        found[name] = (kept, len(new.unreachable(tokens)))
    assert found["ours"][0] > found["fresh"][0]
    assert found["ours"][0] >= found["lowest"][0] and found["ours"][1] == 0 < found["lowest"][1]


def test_a_word_without_a_longer_match_keeps_its_pieces(opened: Opened, learned: Callable[[str], Learned]) -> None:
    """WordPiece's promise, on every word of old text."""
    old, tokens = opened("wordpiece"), learned("wordpiece").tokens
    assert isinstance(old, WordPieceFile)
    new, untouched = old.extended(tokens, []), 0
    words = sorted(
        {w for text in texts("general.valid") for w, _ in old.load().pre_tokenizer.pre_tokenize_str(text.lower())}
    )
    for word, before, after in zip(words, encode(old, words), encode(new, words), strict=True):
        at, longer = 0, False
        for i in before:
            rest = word if at == 0 else old.prefix + word[at:]
            longer |= any(rest.startswith(t) and len(t) > len(old.ids[i]) for t in tokens)
            at += len(token_text(old, old.ids[i]))
        if not longer:
            untouched += 1
            assert before == after, word
    assert 0.5 * len(words) < untouched < len(words)


@pytest.mark.parametrize("kind", KINDS)
def test_text_to_keep_is_kept(opened: Opened, kind: str) -> None:
    old, keep = opened(kind), texts("general.valid", 40)
    free, held = (learn(old, texts("domain.train"), ADD, keep=k) for k in (None, keep))
    assert len(held.tokens) == ADD and held.banned and free.banned is None
    assert (
        encode(old.extended(held.tokens, []), keep) == encode(old, keep) != encode(old.extended(free.tokens, []), keep)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_characters_that_nothing_wrote_come_with_their_words(opened: Opened, kind: str) -> None:
    old = opened(kind)
    with pytest.raises(SurgeonError, match="supports") as refused:
        learn(old, [GREEK] * 20, 60, script="Greek")
    found = learn(old, [GREEK] * 20, int(refused.value.hint.split()[2]), script="auto")
    assert found.script == "Greek" and 15 < found.num_characters < len(found.tokens) - 8
    new = old.extended(found.tokens, [])
    row = encode(new, [GREEK])[0]
    missing = {i for i in row if i == new.unknown_id or i in new.byte_ids}
    assert not missing or "·" not in old.vocab  # the script alone is learned, not its punctuation
    assert found.tokens_before is not None and found.tokens_after is not None
    assert found.tokens_after < 0.6 * found.tokens_before
    assert all(token_text(old, t).strip().isalpha() for t in found.tokens)


def test_a_character_of_one_byte_saves_nothing_where_bytes_are_written(opened: Opened) -> None:
    old = opened("unigram_bytes")
    missing = [c for c in "#$%&*+=@[]^_`{|}~" if c not in old.vocab]
    assert len(missing) > 5
    corpus = [f"{text} {c}{c} {c}" for text, c in zip(texts("domain.train"), missing * 20, strict=False)]
    found = learn(old, corpus, 60)
    assert not {*missing, *"0123456789"} & {*found.tokens}
    new = old.extended(found.tokens, [])
    counts = [sum(map(len, encode(file, corpus))) for file in (old, new)]
    assert found.tokens_before == counts[0]
    assert found.tokens_after == pytest.approx(counts[1], rel=1e-3)


def test_a_text_without_spaces_takes_no_longer_than_its_length(opened: Opened) -> None:
    """Half a megabyte of one word: minutes, were it one word for the trainer too."""
    old, letters = opened("unigram_bytes"), "thequickbrownfoxjumpsoverthelazydog"
    started = time.process_time()
    found = learn(old, [letters * 15_000], 1)
    assert time.process_time() - started < 60
    assert found.tokens_after is not None and found.tokens_before is not None
    assert found.tokens_after < found.tokens_before / 4


@pytest.mark.parametrize("add", [3, 6, 12, 25])
def test_a_token_saves_the_bytes_of_its_characters_that_are_no_tokens(opened: Opened, add: int) -> None:
    old, corpus = opened("unigram_bytes"), [GREEK] * 30 + ["日本語の文章 と 東京の文章"] * 20
    found = learn(old, corpus, add)
    counts = [sum(map(len, encode(file, corpus))) for file in (old, old.extended(found.tokens, []))]
    assert (found.tokens_before, found.tokens_after) == tuple(counts)
    assert found.num_characters < len(found.tokens)  # words before the letters that occur in little else


@pytest.mark.parametrize("kind", KINDS)
def test_options_bound_what_is_learned(opened: Opened, kind: str) -> None:
    old, corpus = opened(kind), texts("domain.train")
    short = learn(old, corpus, 50, max_length=5)
    assert len(short.tokens) == 50 and max(len(token_text(old, t)) for t in short.tokens) <= 5
    often = learn(old, corpus, 30, min_count=25)
    counts = Counter(i for row in encode(old.extended(often.tokens, []), corpus) for i in row)
    characters = Counter("".join(corpus))  # a new one counts wherever it occurs, also within another new token
    found = [max(counts[old.next_id + k], characters[token]) for k, token in enumerate(often.tokens)]
    assert min(found) >= 25
    with pytest.raises(SurgeonError, match=r"supports [\d,]+ new tokens, 90,000 were asked for") as refused:
        learn(old, corpus[:3], 90_000)
    assert "lower --min-count" in refused.value.hint and "text to keep" not in refused.value.hint
    with pytest.raises(SurgeonError, match=r"0 new tokens, 5 were asked for .*text to keep") as refused:
        learn(old, corpus[:3], 5, keep=corpus[:3])
    assert refused.value.hint.endswith("take the target language out of the text to keep")
    with pytest.raises(SurgeonError, match="already the first 1,000 new tokens save less"):
        learn(old, corpus, 30, stop_gain=99)
    few = learn(old, corpus, 400, stop_gain=12 if kind == "wordpiece" else 30)
    assert few.stopped and 0 < len(few.tokens) < 400
    with pytest.raises(UsageError, match="no script"):
        learn(old, corpus, 5, script="Greeek")
    with pytest.raises(UsageError, match="0 new tokens"):
        learn(old, corpus, 0)


def test_order_of_texts_threads_and_hash_seeds_do_not_matter(
    opened: Opened, learned: Callable[[str], Learned]
) -> None:
    for kind in ("unigram_bytes", "wordpiece"):
        assert learn(opened(kind), reversed(texts("domain.train")), ADD) == learned(kind)
    program = (
        "import sys; from pathlib import Path; from surgeon.vocab.tokenizer_json import TokenizerFile;"
        "from surgeon.vocab.learn import learn; from kinds_material import texts;"
        "print(ascii([learn(TokenizerFile.open(Path(p)), texts('domain.train'), 100) for p in sys.argv[1:]]))"
    )
    kinds = ("unigram", "wordpiece")
    root = Path(__file__).resolve().parents[2]
    elsewhere = subprocess.run(
        [sys.executable, "-c", program, *(str(opened(kind).path.parent) for kind in kinds)],
        env=os.environ
        | {"PYTHONHASHSEED": "1", "RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}
        | {"PYTHONPATH": f"{root}:{root / 'tests' / 'vocab'}"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert elsewhere.strip() == ascii([learned(kind) for kind in kinds])


@pytest.mark.parametrize("kind", ["unigram", "unigram_bytes"])
@pytest.mark.parametrize("hole", [0, 3])
def test_sentencepiece_reads_the_extended_unigram_alike(
    opened: Opened, learned: Callable[[str], Learned], tmp_path: Path, kind: str, hole: int
) -> None:
    old, tokens = opened(kind), learned(kind).tokens
    files = extend_files(old.path.parent, old, tokens, [], old.next_id + hole)
    (tmp_path / "tokenizer.model").write_bytes(files.binary["tokenizer.model"])
    places = (old.path.parent, tmp_path)
    before, after = (sentencepiece.SentencePieceProcessor(str(p / "tokenizer.model")) for p in places)
    # sentence by sentence: sentencepiece 0.2.1 adds the scores of a whole text in float32
    whole = (*lines("domain.valid"), *lines("general.valid"), f"<unused {old.next_id}> {GREEK}")
    text = [sentence for line in whole for sentence in line.split(". ") if sentence]
    assert before.encode(text) == encode(old, text)
    rows = encode(files.file, text)
    assert after.encode(text) == rows
    assert max(map(max, rows)) >= old.next_id + hole
    assert not {*range(old.next_id, old.next_id + hole)} & {i for row in rows for i in row}
    assert after.get_piece_size() == files.file.load().get_vocab_size() == old.next_id + hole + ADD


@pytest.mark.parametrize("kind", KINDS)
def test_given_tokens_come_out_and_bad_ones_are_refused(opened: Opened, kind: str) -> None:
    old = opened(kind)
    inside, start = ("##zation", "haemoglobin") if kind == "wordpiece" else ("zation", " haemoglobin")
    found = given_pieces(old, [start, inside, "γαμμα"])
    new = old.extended(found.tokens, [])
    assert len(found.tokens) == 3 and not found.merges and not found.helpers
    assert [new.ids[i] for i in encode(new, ["haemoglobin"])[0]] == [found.tokens[0]]
    assert found.tokens[1] in [new.ids[i] for i in encode(new, ["qqzation"])[0]]
    space = "holds a space" if kind == "wordpiece" else "tokens do not cross words"
    again = start
    for line, reason in [
        (" ", "blank"), ("a b c", "tokens do not cross words"), (" a b", space), (again, "stands twice"),
    ]:  # fmt: skip
        with pytest.raises(SurgeonError, match=reason):
            given_pieces(old, [start, line])
    with pytest.raises(SurgeonError, match="always changes"):
        given_pieces(old, ["ﬁ" if kind != "wordpiece" else "Haemo"])
    with pytest.raises(SurgeonError, match="is a token already"):
        given_pieces(old, [token_text(old, "the" if kind == "wordpiece" else "▁the")])
