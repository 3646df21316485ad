"""The corpora of a run: read, tokenised, packed and mixed as the settings say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgeon.data.lengthening import Lengthening
from surgeon.data.mixture import Batches, Mixture, shares
from surgeon.data.order import SHUFFLED, parse_order, ranking, scores
from surgeon.data.pack import Packed, Packing
from surgeon.data.source import Corpus, parse_corpus
from surgeon.data.stages import first_windows, parse_stages
from surgeon.data.template import HiddenAnswerError
from surgeon.data.token_cache import read_tokens
from surgeon.errors import SurgeonError, UsageError
from surgeon.progress import SILENT, Progress
from surgeon.train.lengths import FLAG
from surgeon.train.settings import CptSettings, methods
from surgeon.train.shape import Shape

DEFAULT_SAMPLING = "proportional"


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
    mixture: Batches

    @property
    def replays(self) -> bool:
        """Whether replay has a share of the run."""
        return any(s.replay and s.share > 0 for s in self.sources)

    def as_json(self, steps: int) -> list[dict[str, Any]]:
        """For each corpus: what it holds and how much of it a run of `steps` steps reads."""
        tokens = self.mixture.tokens(steps)
        return [
            {
                "name": s.corpus.name,
                "replay": s.replay,
                "digest": s.digest,
                "documents": s.packed.tokens.num_documents,
                "tokens": s.packed.tokens.num_tokens,
                "share": s.share,
                "trained_tokens": round(trained),
                "epochs": round(trained / s.packed.tokens.num_tokens, 4),
            }
            for s, trained in zip(self.sources, tokens, strict=True)
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


def read(
    settings: CptSettings, tokenizer: Any, shape: Shape, vocab: int, progress: Progress = SILENT,
    text_packing: Packing = "split", score_field: str | None = None,
) -> Data:  # fmt: skip
    """Tokenise every corpus and mix them; ids that the model has no row for are refused. text_packing: of corpora of
    texts, where the settings leave it open. score_field: of the records of --data corpora, a number that their windows
    bring along; replayed ones have none. An order by scores is one of --data corpora too: replay is shuffled then."""
    windows = shape.windows(shape.steps)
    named = corpora(settings)
    check_replay(settings)
    stages = mixture_stages(settings, named)
    check_sampling(settings, named)
    order = parse_order(settings.order)
    try:
        found = [read_tokens(corpus, tokenizer, settings.loss_on, progress) for corpus, _ in named]
    except HiddenAnswerError as error:  # of what is trained on alone: evaluations and probes are of answers
        raise SurgeonError(error.problem, error.where, f"{error.hint}, or learn all of them: --loss-on all") from error
    tokens = [f.tokens for f in found]
    for (corpus, _), held in zip(named, tokens, strict=True):
        if held.max_id >= vocab:
            raise SurgeonError(
                f"the tokenizer gives the id {held.max_id}, the model has {vocab} rows",
                str(corpus.path),
                "give the tokenizer that belongs to the model",
            )
        if not held.learned:
            raise SurgeonError("the corpus has nothing to learn", str(corpus.path), "look at its answers")
    weights, replay = [c.weight for c, _ in named], [r for _, r in named]
    if not stages:
        sizes = _sizes(settings, named, [t.num_tokens for t in tokens], shape.tokens)
        stages = [(1.0, shares(sizes, weights, replay, settings.replay_share))]
    starts = first_windows(stages, windows)
    packs = []
    for stream, ((corpus, is_replay), held) in enumerate(zip(named, tokens, strict=True)):
        packing = settings.packing
        if packing == "auto":
            packing = "whole" if held.instruct else text_packing
        if packing == "whole" and shape.stages:
            raise UsageError(
                f"{FLAG} does not go with documents that are kept whole: those that longer rows would hold are not "
                "those that the shorter ones left",
                corpus.name,
                "give --packing split or concat, or leave one out",
            )
        ranked = ranking(corpus, SHUFFLED if is_replay and order.field else order, held.num_documents)
        scored = scores(corpus, score_field, held.num_documents) if score_field is not None and not is_replay else None
        packs.append(Packed(held, shape.seq_len, settings.seed, stream, packing, ranked, is_replay, scored))
    turns = [_turns(weights, packs) for _, weights in stages]
    later = list(zip(starts, turns, strict=True))[1:]
    mixture: Batches
    if shape.stages:
        spans = [(span.stop, span.seq_len, span.rows) for span in shape.spans]
        mixture = Lengthening(packs, turns[0], spans, [(first * shape.seq_len, of) for first, of in later])
    else:
        mixture = Mixture(packs, turns[0], shape.rows, later, shape.windows)
    lengths = np.diff([*starts, windows]) / windows
    parts = lengths @ np.array([np.array(w) / sum(w) for _, w in stages])
    sources = [
        Source(corpus, is_replay, float(share), read.digest, packed)
        for (corpus, is_replay), share, read, packed in zip(named, parts, found, packs, strict=True)
    ]
    return Data(tuple(sources), mixture)


def check_replay(settings: CptSettings) -> None:
    """Refuse what is said of replay where nothing is replayed."""
    if settings.replay_ratio and not settings.replay:
        raise UsageError("a replay ratio without a replay corpus", "--replay-ratio", "add --replay CORPUS")
    if settings.replay_mode == "additive" and not settings.replay:
        raise UsageError("additive replay without a replay corpus", "--replay-mode", "add --replay CORPUS")


def mixture_stages(settings: CptSettings, named: list[tuple[Corpus, bool]]) -> list[tuple[float, list[float]]]:
    """The stages of --mixture, which says all there is to say of shares; none without it."""
    if not settings.mixture:
        return []
    if settings.replay_ratio is not None or settings.replay_mode == "additive":
        raise UsageError(
            "a mixture by stages has the shares of replay in it",
            "--mixture",
            "leave out --replay-ratio and --replay-mode",
        )
    weighted = next((corpus for corpus, _ in named if corpus.weight is not None), None)
    if weighted is not None:
        raise UsageError(
            f"the corpus {weighted.name!r} has a weight beside those of the stages", "--mixture", "leave it out"
        )
    return parse_stages(settings.mixture, [corpus.name for corpus, _ in named])


def check_sampling(settings: CptSettings, named: list[tuple[Corpus, bool]]) -> None:
    """Refuse a sampling beside shares that are written out: one of the two would be silently left out."""
    method = methods(settings)["sampling"][0][0]
    if method.name == DEFAULT_SAMPLING:
        return
    weighted = next((c for c, is_replay in named if c.weight is not None and not is_replay), None)
    if settings.mixture or weighted is not None:
        given = "stages" if weighted is None else f"a weight for {weighted.name!r}"
        raise UsageError(
            f"a sampling gives the corpora their shares, and so does {given}", f"--sampling {settings.sampling}",
            "leave one of the two out",
        )  # fmt: skip


def _sizes(settings: CptSettings, named: list[tuple[Corpus, bool]], sizes: list[int], budget: int) -> list[float]:
    """What the shares of corpora without a weight go by, in tokens: of those of --data the parts that the sampling
    gives them, of replay the sizes. budget: tokens of the run, replay included."""
    method, options = methods(settings)["sampling"][0]
    own = [number for number, (_, is_replay) in enumerate(named) if not is_replay]
    supplied = {"sizes": [sizes[number] for number in own], "budget": budget * (1 - settings.replay_share)}
    found = [float(size) for size in sizes]
    parts = method.call(supplied, options)
    if len(parts) != len(own) or not all(0 < part < math.inf for part in parts):
        raise UsageError(
            f"it gave {', '.join(map(str, parts))} for {len(own)} corpora", f"--sampling {settings.sampling}",
            "let it give each a finite number above zero",
        )  # fmt: skip
    for number, part in zip(own, parts, strict=True):
        found[number] = float(part)
    return found


def _turns(weights: list[float], packs: list[Packed]) -> list[float]:
    """Shares of windows from shares of tokens: a window may hold padding."""
    parts = [weight / packed.tokens_per_window for weight, packed in zip(weights, packs, strict=True)]
    return [part / sum(parts) for part in parts]
