"""Packing loses nothing, changes nothing and mixes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.data.pack import IGNORED, Packed, Packing
from surgeon.data.shuffle import keyed_permutation
from surgeon.data.source import Corpus
from surgeon.data.tokens import Tokens, specials, tokenise
from surgeon.loading import load_tokenizer


def corpus_of(lengths: list[int], learn_all: bool = True) -> Tokens:
    """Documents whose tokens are all different, so that every one can be found again."""
    total = sum(lengths)
    ids = np.arange(1, total + 1, dtype=np.int32)
    learn = np.ones(total, np.bool_) if learn_all else (ids % 3 == 0)
    return Tokens("c", ids, learn, np.cumsum([0, *lengths]).astype(np.int64), False, total)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    seq_len=st.integers(2, 16),
    seed=st.integers(0, 5),
    packing=st.sampled_from(["split", "whole"]),
)
@settings(max_examples=60, deadline=None)
def test_every_token_once_an_epoch_and_every_target_once(
    lengths: list[int], seq_len: int, seed: int, packing: Packing
) -> None:
    tokens = corpus_of(lengths, learn_all=False)
    packed = Packed(tokens, seq_len, seed, 0, packing)
    total = sum(lengths)
    # split: as many windows as make whole epochs; whole: one epoch of bins
    if packing == "split":
        epochs, windows = seq_len, [packed.window(k) for k in range(total)]
    else:
        epochs, windows = 1, [packed.window(k) for k in range(round(total / packed.tokens_per_window))]
    seen = np.concatenate([w.ids[: w.num_tokens] for w in windows])
    assert np.array_equal(np.bincount(seen, minlength=total + 1)[1:], np.full(total, epochs))
    labels = np.concatenate([w.labels for w in windows])
    targets = np.bincount(labels[labels != IGNORED], minlength=total + 1)[1:]
    first = np.zeros(total, np.bool_)
    first[tokens.offsets[:-1]] = True  # a document's first token has nothing before it
    assert np.array_equal(targets, np.where(tokens.learn & ~first, epochs, 0))
    for window in windows:
        assert sum(window.lengths) == seq_len
        known = window.labels != IGNORED
        assert np.array_equal(window.labels[known], window.ids[known] + 1)  # the next token of the same document
        document = np.searchsorted(tokens.offsets, window.ids[: window.num_tokens] - 1, side="right")
        segment = np.repeat(np.arange(len(window.lengths)), window.lengths)[: window.num_tokens]
        for s in np.unique(segment):
            assert len(np.unique(document[segment == s])) == 1
        assert (window.positions[np.cumsum([0, *window.lengths[:-1]])] == 0).all()
        assert window.positions.max() == max(window.lengths) - 1


def test_whole_documents_stay_whole() -> None:
    packed = Packed(corpus_of([3, 5, 8, 2, 2, 7, 1]), 8, 0, 0, "whole")
    lengths = [w.lengths if w.num_tokens == 8 else w.lengths[:-1] for w in map(packed.window, range(4))]
    assert sorted(n for row in lengths for n in row) == [1, 2, 2, 3, 5, 7, 8]
    assert packed.tokens_per_window == 7.0


def test_a_window_is_a_function_of_its_number() -> None:
    tokens = corpus_of([5, 9, 3, 30, 4])
    one, two = (Packed(tokens, 7, 3, 1, "split") for _ in range(2))
    backwards = {k: one.window(k).ids.tolist() for k in reversed(range(60))}
    assert all(two.window(k).ids.tolist() == backwards[k] for k in range(60))
    other = Packed(tokens, 7, 4, 1, "split")
    assert any(other.window(k).ids.tolist() != backwards[k] for k in range(7))


def test_the_permutation_is_pinned() -> None:
    """Golden: Philox4x64 words of key (7, 1 << 32 | 2), sorted; a change would change every run that is resumed."""
    assert sorted(keyed_permutation(100, 1, 2, 3)) == list(range(100))
    assert keyed_permutation(8, 7, 1, 2).tolist() == GOLDEN
    assert keyed_permutation(8, 7, 1, 3).tolist() != GOLDEN


GOLDEN = [0, 5, 4, 6, 3, 7, 1, 2]


def test_the_end_is_learned_and_the_start_is_not(stories: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(stories)
    path = tmp_path / "a.txt"
    path.write_text("Once upon a time\nthere was a cat\n", encoding="utf-8")
    for pad in (None, tokenizer.eos_token):  # pad == eos is where other trainers lose the end
        tokenizer.pad_token = pad
        tokens = tokenise(Corpus("c", path, lines=True), tokenizer)
        assert specials(tokenizer).start == (1,)
        for begin, stop in zip(tokens.offsets, tokens.offsets[1:], strict=False):
            ids, learn = tokens.ids[begin:stop], tokens.learn[begin:stop]
            assert (ids[0], ids[-1]) == (1, 2)
            assert (learn[0], learn[1:].all()) == (False, True)
        assert tokenizer.decode(tokens.ids[1 : tokens.offsets[1] - 1]) == "Once upon a time"


def test_answers_are_learned_with_their_end(stories: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(stories)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "Say a colour.", "input": "", "output": "red and blue"}) + "\n")
    tokens = tokenise(Corpus("c", path), tokenizer)
    assert tokens.instruct
    assert tokenizer.decode(tokens.ids) == "<s> ### Instruction:\nSay a colour.\n### Response:\nred and blue</s>"
    assert tokenizer.decode(tokens.ids[tokens.learn]) == "red and blue</s>"
    everything = tokenise(Corpus("c", path), tokenizer, "all")
    assert everything.learn[1:].all()


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_chat_template_writes_its_own_marks(stories: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(stories)
    tokenizer.chat_template = TEMPLATE
    path = tmp_path / "a.jsonl"
    turns = [("user", "Hi"), ("assistant", " Hello "), ("user", "Bye"), ("assistant", "Good night")]
    path.write_text(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n")
    tokens = tokenise(Corpus("c", path), tokenizer)
    assert tokens.ids.tolist().count(1) == 1  # one start, not two
    assert tokens.ids.tolist().count(2) == 4  # the template's ends, none added
    learned = tokenizer.decode(tokens.ids[tokens.learn])
    assert learned.replace(" ", "") == "Hello</s>Goodnight</s>"


def test_a_template_that_hides_the_answer_is_refused(stories: Path, tmp_path: Path) -> None:
    from surgeon.errors import SurgeonError

    tokenizer = load_tokenizer(stories)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "a", "input": "", "output": "b"}) + "\n")
    with pytest.raises(SurgeonError, match="does not show the answer"):
        tokenise(Corpus("c", path), tokenizer)
