"""All files of a tokenizer, extended together: tokenizer.json, tokenizer.model, vocab.json, merges.txt, vocab.txt.

What cannot be extended is left out, with a reason, rather than left as it was: a file that knows none of the new
tokens would be read in place of tokenizer.json by some loader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from surgeon.checkpoint.sidecars import FOREIGN_TOKENIZERS
from surgeon.errors import SurgeonError
from surgeon.vocab.json_text import read_json_text
from surgeon.vocab.tokenizer_json import TOKENIZER_JSON, Merge, TokenizerFile
from surgeon.vocab.tokenizer_model import MODEL_FILES, extend_model, is_tiktoken, same_ids

VOCAB_JSON, MERGES_TXT, VOCAB_TXT = "vocab.json", "merges.txt", "vocab.txt"


@dataclass(frozen=True)
class TokenizerFiles:
    """What replaces files of the old folder: texts and bytes by name. left_out: names of files that must not be
    carried, with the reason. Files not named here are carried unchanged."""

    file: TokenizerFile
    texts: dict[str, str] = field(default_factory=dict)
    binary: dict[str, bytes] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Of all files that are replaced or left out."""
        return {*self.texts, *self.binary, *self.left_out}


def extend_files(
    folder: Path, old: TokenizerFile, tokens: Sequence[str], merges: Sequence[Merge], first: int | None = None
) -> TokenizerFiles:
    """The extended files of the tokenizer in `folder`, new ids from `first` on [after the last one in use]; refuses
    files that contradict tokenizer.json."""
    new = old.extended(tokens, merges, first)
    out = TokenizerFiles(new, {TOKENIZER_JSON: new.text()})
    for name in MODEL_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if is_tiktoken(path):
            out.left_out[name] = "it is a list of ranks (tiktoken), which is not extended"
        elif same_ids(path, old):
            out.binary[name] = extend_model(path, old, tokens, first)
        else:
            out.left_out[name] = "the places of its pieces are not their ids, so that new ones have no place in it"
    for name in FOREIGN_TOKENIZERS:
        if (folder / name).is_file():
            out.left_out[name] = "it is of another library, and is not extended"
    if (folder / VOCAB_JSON).is_file():
        out.texts[VOCAB_JSON] = _vocab_json(folder / VOCAB_JSON, old, new)
    if (folder / MERGES_TXT).is_file():
        out.texts[MERGES_TXT] = _merges_txt(folder / MERGES_TXT, old, merges)
    if (folder / VOCAB_TXT).is_file():
        out.texts[VOCAB_TXT] = _vocab_txt(folder / VOCAB_TXT, old, new)
    return out


def _vocab_json(path: Path, old: TokenizerFile, new: TokenizerFile) -> str:
    vocab, layout = read_json_text(path)
    for token, i in vocab.items():
        if old.vocab.get(token) != i:
            raise _contradicts(path, f"{token!r} has id {i} and {old.vocab.get(token)}")
    if missing := next((token for token in old.model_vocab if token not in vocab and token not in _added(old)), None):
        raise _contradicts(path, f"it lacks {missing!r}")
    return layout.dump(vocab | {token: i for token, i in new.model_vocab.items() if token not in vocab})


def _merges_txt(path: Path, old: TokenizerFile, merges: Sequence[Merge]) -> str:
    text = path.read_text(encoding="utf-8")
    head = [line for line in text.split("\n")[:1] if line.startswith("#version")]
    held = [line for line in text.split("\n")[len(head) :] if line]
    if held != [f"{a} {b}" for a, b in old.merges]:
        raise _contradicts(path, "the merges are others")
    return "\n".join([*head, *held, *(f"{a} {b}" for a, b in merges), ""])


def _vocab_txt(path: Path, old: TokenizerFile, new: TokenizerFile) -> str:
    """A line's number is its id; lines that must stand between are called as BERT calls the ones it leaves free."""
    text = path.read_text(encoding="utf-8")
    held = text.removesuffix("\n").split("\n")
    for i, token in enumerate(held):
        if old.ids.get(i) != token:
            raise _contradicts(path, f"id {i} is {token!r} and {old.ids.get(i)!r}")
    if missing := next((token for token, i in old.model_vocab.items() if i >= len(held)), None):
        raise _contradicts(path, f"it lacks {missing!r}")
    lines = [*held, *(new.ids.get(i, f"[unused_{i}]") for i in range(len(held), new.next_id))]
    return "\n".join(lines) + "\n"


def _added(file: TokenizerFile) -> set[str]:
    return {token["content"] for token in file.added}


def _contradicts(path: Path, reason: str) -> SurgeonError:
    return SurgeonError(
        f"{path.name} contradicts tokenizer.json: {reason}", str(path), "remove it if tokenizer.json is the one in use"
    )
