"""New tokens for tokenizers that choose among pieces (Unigram, WordPiece): runs of old pieces that save the most.

Candidates are merges of the old tokenizer's pieces inside words, by the Rust trainer of tokenizers; unlike in BPE a
token needs no others to be made, so what the corpus does not use in the end is dropped. From then on the tokenizer
itself decides: the corpus is encoded with all candidates, the ones that save least are dropped, and so on until as
many are left as were asked for (as SentencePiece's Unigram trainer prunes, with what a token saves in place of its
likelihood). Every token that is left is used in the corpus, and is reached.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from surgeon.errors import UsageError
from surgeon.progress import SILENT, Progress
from surgeon.vocab.gain import STRIDE, curve
from surgeon.vocab.keep import kept
from surgeon.vocab.kinds.wordpiece import WordPieceFile
from surgeon.vocab.learn import Learned
from surgeon.vocab.piece_pool import PiecePool
from surgeon.vocab.piece_words import BASE, PieceWords, new_characters, piece_words
from surgeon.vocab.script import AUTO, main_script, script_named
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.too_few import too_few, too_little_gain

_REPEAT = 4096
_LONGEST = 256  # symbols of a word that the trainer sees as one: its time grows with the square of them


def learn_pieces(
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
    """`add` new tokens from `documents`, read twice, in the order of what they save; the options are those of
    surgeon.vocab.learn.learn.

    min_count: how often a token must occur where the extended tokenizer encodes the words of the corpus; a character
    that the old one cannot write, in whatever token: without it none of them could be cut otherwise. keep: a token
    that occurs where it encodes one of these texts is not learned, and in the end each of them encodes as before.
    A character that the old tokenizer cannot write counts as its bytes, in what is saved and in the curve. Raises
    SurgeonError where the corpus supports fewer tokens, or where a text to keep is cut otherwise without new tokens.
    """
    held = None if script in (None, AUTO) else script_named(str(script))
    if add < 1:
        raise UsageError(f"{add} new tokens are none", "--add", "ask for at least one")
    if iter(documents) is documents:
        documents = list(documents)
    old = None if keep is None else kept(file, keep, progress)
    characters = new_characters(file, documents, min_count)
    words = piece_words(file.extended(list(characters), []), documents, progress, points=script == AUTO)
    if script == AUTO:
        held = main_script(words.points)
        progress.say(f"most of the text is {held.name}: new tokens are of this script")
    pool = PiecePool(file, words, characters, min_count, max_length, held, old)
    slack = max(64, add // 2) + (0 if stop_gain is None else STRIDE)
    while True:
        pairs = _candidates(words, add + slack, min_count, progress)
        chosen = pool.choose([_text(pair, words.file) for pair in pairs], add, stop_gain)
        if len(chosen) == add or chosen.stopped or len(pairs) < add + slack:
            break
        slack *= 4
    size = f"{words.num_documents:,} documents, {words.num_tokens:,} tokens"
    if stop_gain is not None and chosen.stopped and not len(chosen):
        raise too_little_gain(stop_gain, size)
    if len(chosen) < add and not chosen.stopped:
        bans = f"{len(pool.banned):,} tokens refused for the text to keep" if pool.banned else ""
        raise too_few(len(chosen), add, size, min_count, None if held is None else held.name, bans)
    if old is not None:
        old.check(file.extended(chosen.tokens, []), progress)
        progress.say(f"{len(pool.banned):,} tokens were not learned: they would change the text to keep")
    if chosen.stopped:
        progress.say(
            f"stopped at {len(chosen):,} tokens: the next 1,000 save less than {stop_gain:g} per cent of text's"
        )
    sizes = list(accumulate(chosen.saved, lambda a, b: a - b, initial=pool.num_tokens))
    return Learned(
        chosen.tokens,
        (),
        num_characters=sum(token in characters for token in chosen.tokens),
        tokens_before=pool.num_tokens,
        curve=curve(sizes),
        script=None if held is None else held.name,
        banned=None if old is None else len(pool.banned),
        stopped=chosen.stopped,
    )


def _candidates(words: PieceWords, wanted: int, min_count: int, progress: Progress) -> list[tuple[str, str]]:
    """Up to `wanted` merges over the words' symbols, most frequent pair first (ties: the trainer's symbol order)."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.trainers import BpeTrainer

    if not words.symbols:
        return []
    num_symbols = len({symbol for word in words.symbols for symbol in word})
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = WhitespaceSplit()
    trainer = BpeTrainer(
        vocab_size=num_symbols + wanted, min_frequency=min_count, special_tokens=[], show_progress=False
    )
    with progress.task("learning pieces", None, "tokens"):
        tokenizer.train_from_iterator(_repeated(words.symbols), trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _repeated(words: Counter[str]) -> Iterator[str]:
    """The trainer counts for itself: each word as often as it occurs, in lines of bounded length; what is longer than
    words are (text without spaces, a picture in letters) in parts."""
    for word, count in sorted(words.items()):
        parts = " ".join(word[i : i + _LONGEST] for i in range(0, len(word), _LONGEST))
        step = max(1, _REPEAT // (1 + len(word) // _LONGEST))
        for done in range(0, count, step):
            yield " ".join([parts] * min(step, count - done))


def _text(pair: Sequence[str], file: TokenizerFile) -> str:
    """The token that a merge of symbols makes: the pieces joined, the mark of a piece inside a word only in front."""
    prefix = file.prefix if isinstance(file, WordPieceFile) else ""
    pieces = [file.ids[ord(symbol) - BASE] for symbol in "".join(pair)]
    return pieces[0] + "".join(piece.removeprefix(prefix) for piece in pieces[1:])
