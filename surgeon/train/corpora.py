"""The corpora of a run: read, tokenised, packed and mixed as the settings say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surgeon.data.mixture import Mixture, shares
from surgeon.data.pack import Packed
from surgeon.data.source import Corpus, corpus_digest, parse_corpus
from surgeon.data.tokens import Tokens, tokenise
from surgeon.errors import SurgeonError, UsageError
from surgeon.train.settings import CptSettings

DEFAULT_REPLAY = 0.05  # Ibrahim et al. 2024: removes most of the forgetting under a weak shift at little cost
PROBE_STREAM = 1 << 20  # no corpus of a mixture has this number


@dataclass(frozen=True)
class Source:
    """A corpus in the mixture. share: of all tokens."""

    corpus: Corpus
    replay: bool
    share: float
    digest: str
    packed: Packed


@dataclass(frozen=True)
class Data:
    """The mixture and what it is made of."""

    sources: tuple[Source, ...]
    mixture: Mixture

    def as_json(self, steps: int) -> list[dict[str, Any]]:
        """For each corpus: what it holds and how much of it a run of `steps` steps reads."""
        counts = self.mixture.counts(steps)
        return [
            {
                "name": s.corpus.name,
                "replay": s.replay,
                "digest": s.digest,
                "documents": s.packed.tokens.num_documents,
                "tokens": s.packed.tokens.num_tokens,
                "share": s.share,
                "trained_tokens": round(count * s.packed.tokens_per_window),
                "epochs": round(s.packed.epochs(count), 4),
            }
            for s, count in zip(self.sources, counts, strict=True)
        ]


def corpora(settings: CptSettings) -> list[tuple[Corpus, bool]]:
    """(corpus, whether it is replay) in the order given; names must differ."""
    found: list[tuple[Corpus, bool]] = []
    for text, replay in [(t, False) for t in settings.data] + [(t, True) for t in settings.replay]:
        corpus = parse_corpus(text, text_field=settings.text_field, lines=settings.lines, format=settings.format)
        if any(corpus.name == other.name for other, _ in found):
            raise UsageError(f"two corpora are called {corpus.name!r}", text, "name them: NAME=PATH")
        found.append((corpus, replay))
    return found


def read(settings: CptSettings, tokenizer: Any, seq_len: int, batch_rows: int, vocab: int) -> Data:
    """Tokenise every corpus and mix them; ids that the model has no row for are refused."""
    named = corpora(settings)
    ratio = settings.replay_ratio
    if settings.replay and ratio is None:
        ratio = DEFAULT_REPLAY
    if ratio and not settings.replay:
        raise UsageError("a replay ratio without a replay corpus", "--replay-ratio", "add --replay CORPUS")
    tokens = [tokenise(corpus, tokenizer, settings.loss_on) for corpus, _ in named]
    for (corpus, _), held in zip(named, tokens, strict=True):
        _check(corpus, held, vocab)
    parts = shares([t.num_tokens for t in tokens], [c.weight for c, _ in named], [r for _, r in named], ratio or 0.0)
    sources = []
    for stream, ((corpus, replay), held, share) in enumerate(zip(named, tokens, parts, strict=True)):
        packed = _packed(settings, held, seq_len, stream)
        sources.append(Source(corpus, replay, share, corpus_digest(corpus), packed))
    # a window may hold padding: turns are by windows, shares by tokens
    turns = [s.share / s.packed.tokens_per_window for s in sources]
    mixture = Mixture([s.packed for s in sources], [t / sum(turns) for t in turns], batch_rows)
    return Data(tuple(sources), mixture)


def read_probe(settings: CptSettings, word: str, tokenizer: Any, seq_len: int, vocab: int) -> Packed:
    """A corpus that is not trained on, packed as those that are, in an order of its own."""
    corpus = probe_corpus(settings, word)
    held = tokenise(corpus, tokenizer, settings.loss_on)
    _check(corpus, held, vocab)
    return _packed(settings, held, seq_len, PROBE_STREAM)


def probe_corpus(settings: CptSettings, word: str) -> Corpus:
    """The corpus that a method's option names."""
    return parse_corpus(
        word, text_field=settings.text_field, lines=settings.lines, format=settings.format, weighted=False
    )


def _packed(settings: CptSettings, held: Tokens, seq_len: int, stream: int) -> Packed:
    whole = settings.packing == "whole" or (settings.packing == "auto" and held.instruct)
    return Packed(held, seq_len, settings.seed, stream, "whole" if whole else "split")


def _check(corpus: Corpus, held: Tokens, vocab: int) -> None:
    if int(held.ids.max()) >= vocab:
        raise SurgeonError(
            f"the tokenizer gives the id {int(held.ids.max())}, the model has {vocab} rows",
            str(corpus.path),
            "give the tokenizer that belongs to the model",
        )
    if not held.learn.any():
        raise SurgeonError("the corpus has nothing to learn", str(corpus.path), "look at its answers")
