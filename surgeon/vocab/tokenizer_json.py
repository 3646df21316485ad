"""tokenizer.json as data: the tokens and ids that it holds, and the edit that appends new ones.

Nothing of the file changes but `model.vocab` (and `model.merges`): normaliser, pre-tokenizer, post-processor, decoder,
added tokens and the file's layout stay as they are. Added tokens that are not in `model.vocab` are written into it at
the ids they have: otherwise tokenizers gives them new ids on loading, because it counts on from the (now larger) model
vocabulary. What depends on the kind of model is in surgeon.vocab.kinds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from surgeon.errors import SurgeonError
from surgeon.vocab.json_text import Layout, read_json_text

TOKENIZER_JSON = "tokenizer.json"
SPACE = "▁"  # how SentencePiece writes a space
Merge = tuple[str, str]


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json. Instances are of the subclass of their kind; `open` chooses it."""

    path: Path
    data: dict[str, Any]
    layout: Layout = field(default=Layout(), compare=False)
    made_from: tuple[str, ...] = ()  # the files that it was converted from, where the folder had no tokenizer.json

    kind: ClassVar[str] = ""

    @classmethod
    def open(cls, folder: Path) -> TokenizerFile:
        """Read and check. Refuses a kind of model that cannot be extended, tokens or ids that stand twice, and added
        tokens that do not get the ids they are written with. Without a tokenizer.json the tokenizer's other files
        are converted, where that is exact."""
        from surgeon.vocab.kinds import kind_class

        path = folder / TOKENIZER_JSON
        made_from: tuple[str, ...] = ()
        if path.is_file() or not folder.is_dir():
            data, layout = read_json_text(path)
        else:
            from surgeon.vocab.convert import converted

            data, made_from = converted(folder)
            layout = Layout()
        model = data.get("model")
        kind = model.get("type") if isinstance(model, dict) else None
        found = kind_class(str(kind))
        if not isinstance(model, dict) or found is None:
            raise SurgeonError(
                f"the tokenizer is of type {kind or 'unknown'}, which cannot be extended",
                str(path),
                "use a model with a BPE, Unigram or WordPiece tokenizer",
            )
        file = found(path, data, layout, made_from)
        file.check()
        return file

    @property
    def model(self) -> dict[str, Any]:
        return self.data["model"]

    @property
    def promise(self) -> str:
        """What this kind promises of old text, for people."""
        raise NotImplementedError

    @cached_property
    def model_vocab(self) -> dict[str, int]:
        """Token -> id of the model alone, in the file's order."""
        return self.model["vocab"]

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Token -> id of the model and of all added tokens."""
        return self.model_vocab | {token["content"]: token["id"] for token in self.added}

    @cached_property
    def ids(self) -> dict[int, str]:
        """Id -> token, ascending; added tokens included."""
        return {i: token for token, i in sorted(self.vocab.items(), key=lambda item: item[1])}

    @property
    def added(self) -> list[dict[str, Any]]:
        return self.data.get("added_tokens") or []

    @cached_property
    def added_ids(self) -> list[int]:
        return sorted(token["id"] for token in self.added)

    @property
    def special_ids(self) -> list[int]:
        return sorted(token["id"] for token in self.added if token["special"])

    @cached_property
    def next_id(self) -> int:
        """The first id after the last one in use."""
        return max(self.vocab.values()) + 1

    @property
    def merges(self) -> list[Merge]:
        """In order of rank; none where the kind has none."""
        return []

    @cached_property
    def byte_level(self) -> bool:
        """Whether text passes through the 256-letter byte alphabet before the model sees it."""
        return "ByteLevel" in _types(self.data.get("pre_tokenizer"))

    @property
    def by_pieces(self) -> bool:
        """Whether tokens are any pieces of text that stand in the vocabulary (SentencePiece), not only what listed
        merges or a pre-tokenizer of words make."""
        return False

    @cached_property
    def byte_ids(self) -> dict[int, int]:
        """Id of a byte-fallback piece <0xNN> -> the byte."""
        if not self.model.get("byte_fallback"):
            return {}
        names = {f"<0x{byte:02X}>": byte for byte in range(256)}
        return {i: names[token] for i, token in self.ids.items() if token in names}

    @property
    def unknown_id(self) -> int | None:
        """The id that stands for text which the model cannot write, None where it can write everything."""
        return None

    def check(self) -> None:
        """Refuse what the edit would not keep; kinds add their own."""
        if not self.model_vocab:
            raise SurgeonError("the tokenizer has no tokens", str(self.path), "restore the file")
        wrong = next((t for t in self.added if not {"id", "content", "special"} <= t.keys()), None)
        if wrong is not None:
            raise SurgeonError(f"an added token lacks its id or flags: {wrong}", str(self.path), "restore the file")
        if len(self.ids) != len(self.vocab):
            seen: dict[int, str] = {}
            for token, i in self.vocab.items():
                if i in seen:
                    raise SurgeonError(
                        f"two tokens have the id {i}: {seen[i]!r} and {token!r}", str(self.path), "restore the file"
                    )
                seen[i] = token
        self._check_added()

    def _check_added(self) -> None:
        """Refuse added tokens that stand twice, and a file that tokenizers reads with other ids than are written."""
        seen: set[str] = set()
        for token, i in zip(self.added, self.added_as_read(), strict=True):
            content = token["content"]
            if content in seen:
                raise SurgeonError(f"the added token {content!r} stands twice", str(self.path), "restore the file")
            seen.add(content)
            if i != token["id"]:
                raise SurgeonError(
                    f"the added token {content!r} is written with id {token['id']}, and read as {i}",
                    str(self.path),
                    "write the ids that the model was trained with, without holes between added tokens",
                )

    def added_as_read(self) -> list[int]:
        """The id that tokenizers gives each added token: that of the model's vocabulary, else it counts on from the
        number of tokens there, whatever the file says."""
        last = len(self.model_vocab) - 1
        found: list[int] = []
        for token in self.added:
            found.append(self.model_vocab.get(token["content"], last + 1))
            last = max(last, found[-1])
        return found

    def load(self, *, merge_whole_words: bool = True) -> Any:
        """A tokenizers.Tokenizer without truncation and padding, the same object each time: do not change it.
        `merge_whole_words` False turns `ignore_merges` off, so that a token in the vocabulary is found only if the
        merges make it."""
        return self._loaded if merge_whole_words or not self.model.get("ignore_merges") else self._loaded_merging

    @cached_property
    def _loaded(self) -> Any:
        return self._tokenizer(self.model)

    @cached_property
    def _loaded_merging(self) -> Any:
        return self._tokenizer(self.model | {"ignore_merges": False})

    def _tokenizer(self, model: dict[str, Any]) -> Any:
        from tokenizers import Tokenizer

        data = self.data | {"truncation": None, "padding": None, "model": model}
        try:
            return Tokenizer.from_str(json.dumps(data, ensure_ascii=False))
        except Exception as error:
            raise SurgeonError(
                f"tokenizers cannot read the file: {' '.join(str(error).split())}", str(self.path), "restore the file"
            ) from error

    def pieces(self, tokens: Iterable[str]) -> list[list[int]]:
        """The ids that the model gives the text of each token of the vocabulary, or of one that is to be in it."""
        model = self.load(merge_whole_words=False).model
        return [[piece.id for piece in model.tokenize(token)] for token in tokens]

    def unreachable(self, tokens: Sequence[str]) -> list[str]:
        """Those of `tokens` that do not come out when the model (merges only) encodes their own text."""
        return [t for t, ids in zip(tokens, self.pieces(tokens), strict=True) if ids != [self.vocab.get(t)]]

    def extended(self, tokens: Sequence[str], merges: Sequence[Merge], first: int | None = None) -> TokenizerFile:
        """With `tokens` at the ids from `first` on [after the last one in use], in order, and `merges` below all old
        ones. Tokens of the old file keep their places in it; added tokens are baked."""
        vocab = self._vocab_with(tokens, first)
        return replace(self, data=self.data | {"model": self.model | {"vocab": vocab}})

    def _vocab_with(self, tokens: Sequence[str], first: int | None) -> dict[str, int]:
        vocab = dict(self.model_vocab)
        for token in self.added:
            vocab[token["content"]] = token["id"]
        first = self.next_id if first is None else first
        if first < self.next_id:
            raise ValueError(f"the id {first} is in use")
        for i, content in enumerate(tokens):
            if content in vocab:
                raise ValueError(f"{content!r} is a token already")
            vocab[content] = first + i
        return vocab

    def text(self) -> str:
        """The file's text, in the layout that it had."""
        return self.layout.dump(self.data)


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
    return file.unreachable(tokens)


def _types(value: Any) -> list[str]:
    """All `type` fields of a (nested) pre-tokenizer."""
    if isinstance(value, dict):
        own = [value["type"]] if isinstance(value.get("type"), str) else []
        return own + [t for inner in value.values() for t in _types(inner)]
    if isinstance(value, list):
        return [t for inner in value for t in _types(inner)]
    return []
