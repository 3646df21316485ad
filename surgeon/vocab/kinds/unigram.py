"""Unigram: of all ways to cut a text into pieces, the one with the greatest sum of scores (logarithms of probability).

A new piece gets the score of its old pieces in a row, plus a little for each piece that it saves. So a path through
new pieces scores as the same path written in old pieces does, but for that little: the old model still decides where
text is cut, and new pieces only join what it has cut. (An unknown character scores a little below the lowest piece:
with lower scores among the pieces it costs more, but a path takes it only where no piece holds the character.)

Fresh scores (of a model trained on the new text) and the lowest old score both lie far above the old pieces in a row
and win against cuts across their edges: more old text is cut anew, and with the lowest old score some tokens are never
reached (tests/vocab/test_learn_pieces.py measures all three).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from surgeon.errors import SurgeonError
from surgeon.vocab.tokenizer_json import Merge, TokenizerFile

GAIN = 0.1  # nats for each old piece that a new one saves: above float32 rounding of a long sentence's sum
_UNKNOWN_PENALTY = (
    10.0  # of tokenizers and of SentencePiece: an unknown character scores so far below the lowest piece
)


@dataclass(frozen=True)
class UnigramFile(TokenizerFile):
    """The tokenizers of T5, XLM-R, ALBERT: SentencePiece's default. `model.vocab` is a list of (piece, score), and a
    piece's place in it is its id."""

    kind: ClassVar[str] = "Unigram"

    @property
    def promise(self) -> str:
        return (
            "no guarantee for text in a script of the new tokens: text in which the old pieces of no new token stand "
            f"in a row keeps its encoding unless two ways to cut it are within {GAIN:g} nats a piece of each other"
        )

    @cached_property
    def model_vocab(self) -> dict[str, int]:
        return {piece: i for i, (piece, _) in enumerate(self.model["vocab"])}

    @cached_property
    def scores(self) -> list[float]:
        return [float(score) for _, score in self.model["vocab"]]

    @property
    def by_pieces(self) -> bool:
        return not self.byte_level

    @property
    def unknown_id(self) -> int | None:
        return None if self.byte_ids else self.model.get("unk_id")

    def check(self) -> None:
        listed = self.model.get("vocab")
        if not isinstance(listed, list) or not all(isinstance(p, list) and len(p) == 2 for p in listed):
            raise SurgeonError("the vocabulary is no list of pieces and scores", str(self.path), "restore the file")
        if len(self.model_vocab) != len(listed):
            seen: set[str] = set()
            twice = next(piece for piece, _ in listed if piece in seen or seen.add(piece))  # type: ignore[func-returns-value]
            raise SurgeonError(f"the piece {twice!r} stands twice", str(self.path), "restore the file")
        if not all(math.isfinite(score) for score in self.scores):
            raise SurgeonError("a score is not finite", str(self.path), "restore the file")
        if self.model.get("unk_id") is None and not self.byte_ids:
            raise SurgeonError("the tokenizer has no unknown piece", str(self.path), "restore the file")
        super().check()

    @cached_property
    def unknown_score(self) -> float:
        """What a character that no piece writes costs."""
        return min(self.scores) - _UNKNOWN_PENALTY

    def path_scores(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """Of each text the score of its best path, and how many ids it is written with; a character that no piece
        writes counts as its bytes."""
        model = self.load().model
        unknown = {self.model.get("unk_id"), *self.byte_ids}
        found = []
        for text in texts:
            known = [piece for piece in model.tokenize(text) if piece.id not in unknown]
            held = "".join(piece.value for piece in known)
            lost = len(text) - len(held)
            lost_bytes = len(text.encode("utf-8")) - len(held.encode("utf-8"))
            score = sum(self.scores[piece.id] for piece in known) + lost * self.unknown_score
            found.append((score, len(known) + lost_bytes))
        return found

    def new_scores(self, tokens: Sequence[str]) -> list[float]:
        """The scores of new pieces, in the order of their usefulness: half a GAIN falls along it, so that of two ways
        to save as many pieces the one through earlier tokens is taken, by every reader of the file."""
        num = max(len(tokens), 1)
        return [
            score + GAIN * (length - 1 + 0.5 * (1 - k / num))
            for k, (score, length) in enumerate(self.path_scores(tokens))
        ]

    def _baked_scores(self, added: Sequence[str]) -> list[float]:
        """Of added tokens written into the model. They are found in a text before the model sees it, but for some
        (surgeon.vocab.baked): these score below their own pieces in a row, so that no path takes them."""
        from surgeon.vocab.baked import may_reach_model

        seen = {token["content"] for token in self.added if may_reach_model(self, token)}
        lowest = min(self.scores)
        return [
            min(score - 1.0, lowest) if token in seen else lowest
            for token, (score, _) in zip(added, self.path_scores(added), strict=True)
        ]

    def extended(self, tokens: Sequence[str], merges: Sequence[Merge], first: int | None = None) -> TokenizerFile:
        """Every id below the last one needs an entry: added tokens, and `<unused ID>` for ids between the last one in
        use and `first`, which no text becomes, because spaces are replaced before the model sees it."""
        vocab = self._vocab_with(tokens, first)
        first = self.next_id if first is None else first
        between = [unused(i) for i in range(self.next_id, first)]
        if between and (between[0] in vocab or self._reaches_model(between[0])):
            raise SurgeonError(
                f"ids {self.next_id} to {first - 1} cannot be left without a token: text such as {between[0]!r} would "
                "become one",
                str(self.path),
                "extend with --use-padding",
            )
        baked = [self.ids[i] for i in range(len(self.model_vocab), self.next_id)]
        entries = [
            *self.model["vocab"],
            *([piece, score] for piece, score in zip(baked, self._baked_scores(baked), strict=True)),
            *([piece, min(self.scores)] for piece in between),
            *([piece, score] for piece, score in zip(tokens, self.new_scores(tokens), strict=True)),
        ]
        return replace(self, data=self.data | {"model": self.model | {"vocab": entries}})

    def _reaches_model(self, text: str) -> bool:
        """Whether a text is handed to the model with its space as it is."""
        tokenizer = self.load()
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        words = tokenizer.pre_tokenizer.pre_tokenize_str(normal) if tokenizer.pre_tokenizer else [(normal, (0, 0))]
        return any(" " in word for word, _ in words)


def unused(i: int) -> str:
    """The piece at an id that stays without a token, where the file cannot leave it out."""
    return f"<unused {i}>"
