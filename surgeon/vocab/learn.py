"""New tokens: the tokenizer's own BPE merges continued on a corpus, or given words made reachable.

The Rust trainer of tokenizers does the counting: it is given words whose letters are the pieces of the old tokenizer
(surgeon.vocab.words), so that it goes on exactly where the old merges stop, and its merges are read back as merges of
pieces. A merge never crosses a word, an added token or a byte-fallback piece.

By construction a token learned so is reached by encoding its own text: a stretch between two final piece boundaries of
a word encodes to the same pieces when it stands alone. Where merging goes by pieces (SentencePiece), every pair that
makes a token is a merge, and there reachability is checked and the few tokens that fail it are passed over.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress
from surgeon.vocab.token_text import token_text
from surgeon.vocab.tokenizer_json import Merge, TokenizerFile, all_splits, unreachable
from surgeon.vocab.words import BASE, WordTable, word_table

_REPEAT = 4096


@dataclass(frozen=True)
class Learned:
    """New tokens in the order of their ids, and the merges to append.

    num_characters: how many of the tokens are single characters that byte fallback wrote before.
    tokens_before: old tokens of the corpus it was learned on (None for given tokens). helpers: of given tokens, those
    that no line named but that a chain of merges must pass through.
    """

    tokens: tuple[str, ...]
    merges: tuple[Merge, ...]
    num_characters: int = 0
    tokens_before: int | None = None
    helpers: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What the lineage remembers of the learning."""
        return {"characters": self.num_characters, "tokens_before": self.tokens_before}


def learn(
    file: TokenizerFile,
    documents: Iterable[str],
    add: int,
    *,
    min_count: int = 2,
    max_length: int | None = None,
    script: str | None = None,
    keep: Iterable[str] | None = None,
    stop_gain: float | None = None,
    progress: Progress = SILENT,
) -> Learned:
    """Exactly `add` new tokens from `documents`, read once.

    min_count: a merge must join at least so many pairs, a character occur so often. max_length: characters of a
    token's text, the space included. Raises SurgeonError where the corpus supports fewer than `add` tokens, saying
    how many. The result depends on the texts alone, not on their order, threads or hash seeds.
    """
    table = word_table(file, documents, progress)
    words, text_of = _symbols(file, table, min_count)
    slack = 64 + add // 16
    while True:
        wanted = add + slack
        pairs = _train(words, wanted, min_count, progress)
        tokens, merges = _choose(file, [_texts(p, text_of) for p in pairs], add, max_length)
        if len(tokens) == add:
            single = sum(token in table.occurrences for token in tokens)
            return Learned(tuple(tokens), tuple(merges), single, table.num_tokens)
        if len(pairs) < wanted:
            raise SurgeonError(
                f"the corpus supports {len(tokens):,} new tokens, {add:,} were asked for",
                f"{table.num_documents:,} documents, {table.num_tokens:,} tokens, min_count={min_count}",
                f"ask for {len(tokens)} or fewer, give more text, or lower min_count",
            )
        slack *= 4


def _symbols(file: TokenizerFile, table: WordTable, min_count: int) -> tuple[Counter[str], dict[int, str]]:
    """The words for the trainer, and the text of each symbol.

    A character that byte fallback writes becomes two symbols, (mark, character), and their merge is the choice of the
    character as a token. Words of just these two are added until that pair counts what the token would save (its
    bytes less one, each time it occurs), plus one: so characters and merges are chosen by what they save, and no merge
    reaches into a character before it is chosen.
    """
    text_of = {BASE + i: token for i, token in file.ids.items()}
    first, num = BASE + table.first_character, len(table.characters)
    halves: dict[int, str] = {}
    extra: Counter[str] = Counter()
    for k, character in enumerate(table.characters):
        count = table.occurrences[character]
        if count < min_count:
            halves[first + k] = " "  # stays bytes: a word ends here
            continue
        pair = chr(first + num + k) + chr(first + k)
        text_of |= {first + k: character, first + num + k: ""}
        halves[first + k] = pair
        extra[pair] = (len(character.encode("utf-8")) - 2) * count + 1
    if not halves:
        return table.words, text_of
    words: Counter[str] = Counter()
    for word, count in table.words.items():
        for part in word.translate(halves).split(" "):
            if len(part) > 1:
                words[part] += count
    return words + extra, text_of


def _train(words: Counter[str], wanted: int, min_count: int, progress: Progress) -> list[tuple[str, str]]:
    """Up to `wanted` merges over the words' symbols, most frequent pair first (ties: the trainer's symbol order)."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.trainers import BpeTrainer

    if not words:
        return []
    num_symbols = len({symbol for word in words for symbol in word})
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = WhitespaceSplit()
    trainer = BpeTrainer(
        vocab_size=num_symbols + wanted, min_frequency=min_count, special_tokens=[], show_progress=False
    )
    with progress.task("learning merges", None, "tokens"):
        tokenizer.train_from_iterator(_repeated(words), trainer)
    pairs = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(left, right) for left, right in pairs]


def _repeated(words: Counter[str]) -> Iterator[str]:
    """The trainer counts for itself: each word as often as it occurs, in lines of bounded length."""
    for word, count in sorted(words.items()):
        for done in range(0, count, _REPEAT):
            yield " ".join([word] * min(_REPEAT, count - done))


def _texts(pair: tuple[str, str], text_of: dict[int, str]) -> Merge:
    left, right = ("".join(text_of[ord(symbol)] for symbol in side) for side in pair)
    return left, right


def _choose(
    file: TokenizerFile, pairs: list[Merge], add: int, max_length: int | None
) -> tuple[list[str], list[Merge]]:
    """The first `add` distinct tokens in order of merging, each reachable; fewer where the pairs run out."""
    passed: set[str] = set()
    while True:
        tokens, merges = _take(file, pairs, add, max_length, passed)
        if file.by_pieces:
            merges = all_splits(tokens, file)
        lost = unreachable(file.extended(tokens, merges), tokens)
        if not lost:
            return tokens, merges
        passed.update(lost)


def _take(
    file: TokenizerFile, pairs: list[Merge], add: int, max_length: int | None, passed: set[str]
) -> tuple[list[str], list[Merge]]:
    tokens: dict[str, None] = {}
    merges: list[Merge] = []
    for left, right in pairs:
        if len(tokens) == add:
            break
        text = left + right
        known = text in file.vocab or text in tokens
        both = all(side in file.vocab or side in tokens for side in (left, right) if left)
        too_long = max_length is not None and len(token_text(file, text)) > max_length
        if not both or text in passed or (too_long and not known):
            continue  # what is built on a token that was passed over goes with it
        if not known:
            tokens[text] = None
        if left:  # else a character: it needs no merge
            merges.append((left, right))
    return list(tokens), merges
