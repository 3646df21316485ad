"""tokenizer.json as data: what a BPE tokenizer holds, and the edit that appends tokens and merges to it.

Nothing of the file changes but `model.vocab` and `model.merges`: normaliser, pre-tokenizer, post-processor, decoder,
added tokens stay as they are. New ids follow the last id in use (added tokens included), without holes. Added tokens
whose ids lie outside of `model.vocab` are written into it at the ids they have: otherwise tokenizers gives them new
ids on loading, because it counts on from the (now larger) model vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from surgeon.checkpoint.config_json import read_json_object
from surgeon.errors import SurgeonError

TOKENIZER_JSON = "tokenizer.json"
SPACE = "▁"  # how SentencePiece writes a space
Merge = tuple[str, str]


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json whose model is BPE, byte-level or SentencePiece-like with byte fallback."""

    path: Path
    data: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> TokenizerFile:
        """Read and check; refuses models other than BPE and BPE variants whose merges are not plain concatenation."""
        path = folder / TOKENIZER_JSON
        data = read_json_object(path)
        model = data.get("model")
        kind = model.get("type") if isinstance(model, dict) else None
        if not isinstance(model, dict) or kind != "BPE":
            raise SurgeonError(
                f"the tokenizer is of type {kind or 'unknown'}: only BPE can be continued and leave old text alone",
                str(path),
                "use a model with a BPE tokenizer",
            )
        for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
            if model.get(name):
                raise SurgeonError(
                    f"the tokenizer uses {name}={model[name]!r}, which extend-vocab does not know how to continue",
                    str(path),
                    "use a byte-level or SentencePiece-like BPE tokenizer",
                )
        file = cls(path, data)
        if len(set(file.ids.values())) != len(file.ids):
            raise SurgeonError("two ids hold the same token", str(path), "restore the file")
        if not (file.byte_level or model.get("byte_fallback")):
            raise SurgeonError(
                "the tokenizer has neither a byte-level alphabet nor byte fallback: new words may be unknown",
                str(path),
                "use a model whose tokenizer covers every text",
            )
        return file

    @property
    def model(self) -> dict[str, Any]:
        return self.data["model"]

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Token -> id of the model and of all added tokens; the first of two entries that agree."""
        found: dict[str, int] = dict(self.model["vocab"])
        for token in self.added:
            found[token["content"]] = token["id"]
        return found

    @cached_property
    def ids(self) -> dict[int, str]:
        """Id -> token, ascending; added tokens included."""
        return {i: token for token, i in sorted(self.vocab.items(), key=lambda item: item[1])}

    @property
    def added(self) -> list[dict[str, Any]]:
        return self.data.get("added_tokens") or []

    @property
    def added_ids(self) -> list[int]:
        return sorted(token["id"] for token in self.added)

    @property
    def special_ids(self) -> list[int]:
        return sorted(token["id"] for token in self.added if token["special"])

    @cached_property
    def next_id(self) -> int:
        """The first id after the last one in use."""
        return max(self.vocab.values()) + 1

    @cached_property
    def merges(self) -> list[Merge]:
        """In order of rank; both ways of writing them (pairs, or joined by a space) are read."""
        return [(m[0], m[1]) if isinstance(m, list) else _parts(m) for m in self.model["merges"]]

    @property
    def byte_level(self) -> bool:
        """Whether text passes through the 256-letter byte alphabet before merging."""
        return "ByteLevel" in _types(self.data.get("pre_tokenizer"))

    @property
    def by_pieces(self) -> bool:
        """Whether any two neighbours whose concatenation is a piece merge (SentencePiece), not only listed pairs."""
        return bool(self.model.get("byte_fallback"))

    @property
    def byte_ids(self) -> dict[int, int]:
        """Id of a byte-fallback piece <0xNN> -> the byte."""
        if not self.model.get("byte_fallback"):
            return {}
        names = {f"<0x{byte:02X}>": byte for byte in range(256)}
        return {i: names[token] for i, token in self.ids.items() if token in names}

    def load(self, *, merge_whole_words: bool = True) -> Any:
        """A tokenizers.Tokenizer without truncation and padding. `merge_whole_words` False turns `ignore_merges` off,
        so that a token in the vocabulary is found only if the merges make it."""
        from tokenizers import Tokenizer

        data = self.data | {"truncation": None, "padding": None}
        if not merge_whole_words:
            data |= {"model": self.model | {"ignore_merges": False}}
        return Tokenizer.from_str(json.dumps(data, ensure_ascii=False))

    def extended(self, tokens: Sequence[str], merges: Sequence[Merge], first: int | None = None) -> TokenizerFile:
        """With `tokens` at the ids from `first` on [after the last one in use], in order, and `merges` below all old
        ones."""
        vocab: dict[str, int] = dict(self.model["vocab"])
        for token in self.added:  # baked, at the ids they have
            vocab[token["content"]] = token["id"]
        first = self.next_id if first is None else first
        for i, content in enumerate(tokens):
            if content in vocab:
                raise ValueError(f"{content!r} is a token already")
            vocab[content] = first + i
        for left, right in merges:
            if left + right not in vocab or left not in vocab or right not in vocab:
                raise ValueError(f"the merge of {left!r} and {right!r} names no token")
        vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
        joined = bool(self.model["merges"]) and isinstance(self.model["merges"][0], str)
        new = [f"{a} {b}" if joined else [a, b] for a, b in merges]
        model = self.model | {"vocab": vocab, "merges": [*self.model["merges"], *new]}
        return replace(self, data=self.data | {"model": model})

    def text(self) -> str:
        """The file's text, written as tokenizers writes it."""
        return json.dumps(self.data, ensure_ascii=False, indent=2)


def all_splits(tokens: Sequence[str], file: TokenizerFile) -> list[Merge]:
    """For each token in order every pair of pieces that makes it: what SentencePiece, and transformers' reading of a
    tokenizer.model, do. Old pieces, new pieces and single characters count; byte-fallback and added tokens do not."""
    closed = {file.ids[i] for i in (*file.byte_ids, *file.added_ids)}
    known = {token for token in file.vocab if token not in closed} | set(tokens)
    found: list[Merge] = []
    for token in tokens:
        cuts = ((token[:i], token[i:]) for i in range(len(token) - 1, 0, -1))
        found += [(left, right) for left, right in cuts if left in known and right in known]
    return found


def unreachable(file: TokenizerFile, tokens: Sequence[str]) -> list[str]:
    """Those of `tokens` that do not come out when the model (merges only) encodes their own text."""
    model = file.load(merge_whole_words=False).model
    return [t for t in tokens if [piece.value for piece in model.tokenize(t)] != [t]]


def _parts(merge: str) -> Merge:
    left, _, right = merge.partition(" ")
    return left, right


def _types(value: Any) -> list[str]:
    """All `type` fields of a (nested) pre-tokenizer."""
    if isinstance(value, dict):
        own = [value["type"]] if isinstance(value.get("type"), str) else []
        return own + [t for inner in value.values() for t in _types(inner)]
    if isinstance(value, list):
        return [t for inner in value for t in _types(inner)]
    return []
