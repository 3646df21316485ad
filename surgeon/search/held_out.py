"""The texts that weights are searched on: never a test set, the same documents for every point."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.data.source import Corpus, corpus_digest, files, parse_corpus
from surgeon.errors import SurgeonError, UsageError

if TYPE_CHECKING:
    from surgeon.data.items import Item

_TEST = re.compile(r"tests?|testsets?")
# what may stand behind `test` in the name of a folder that holds such a set; other folders that merely begin with the
# word (test_results_2024, a scratch folder of a test run) say nothing of the texts in them
_BEHIND = re.compile(r"sets?|splits?|data|\d+|of")


@dataclass(frozen=True)
class HeldOut:
    """A corpus as it is scored. digest: of its files; tokens: scored ones; num_bytes: of the text that they spell."""

    name: str
    digest: str
    items: Sequence[Item]

    @property
    def tokens(self) -> int:
        return sum(item.num_tokens for item in self.items)

    @property
    def num_bytes(self) -> int:
        return sum(item.num_bytes for item in self.items)


def corpora(texts: Sequence[str]) -> list[Corpus]:
    """NAME=CORPUS each. Raises UsageError on one name twice, SurgeonError on what is not there or is a test set."""
    found = [parse_corpus(text, weighted=False) for text in texts]
    names = [corpus.name for corpus in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two corpora are called {name!r}", "--search", "name them: NAME=CORPUS")
    for corpus in found:
        refuse_test_set(corpus)
    return found


def held_out(corpus: Corpus, tokenizer: Any, tokens: int) -> HeldOut:
    """Whole documents in order until `tokens` tokens are scored, as the tokenizer of the output reads them."""
    from surgeon.data.items import prepare, take

    found = HeldOut(corpus.name, corpus_digest(corpus), prepare(take(corpus, tokenizer, tokens), tokenizer))
    if not found.tokens:
        raise SurgeonError("the corpus has no token to score", str(corpus.path), "give longer texts")
    return found


def refuse_test_set(corpus: Corpus) -> None:
    """Raise SurgeonError where the path as given, what it links to, or a file in the folder is called a test set:
    weights that were fitted to it can no longer be judged by it."""
    own = corpus.path.parts
    folders = [*own[:-1], *([own[-1]] if corpus.path.is_dir() else [])]
    names = [corpus.path.name, corpus.path.resolve().name] if not corpus.path.is_dir() else []
    inside = [path.relative_to(corpus.path) for path in files(corpus)] if corpus.path.is_dir() else []
    names += [path.name for path in inside]
    folders += [part for path in inside for part in path.parts[:-1]]
    for part in _tests(names, folders):
        raise SurgeonError(
            f"{part!r} is called a test set, and weights are not searched on one",
            f"--search {corpus.name}={corpus.path}",
            "give a validation split; where it is one, call it so",
        )


def _tests(names: Iterable[str], folders: Iterable[str]) -> list[str]:
    found = [name for name in names if any(map(_TEST.fullmatch, _words(Path(name).stem)))]
    for folder in folders:
        words = _words(folder)
        while words and _BEHIND.fullmatch(words[-1]):
            words.pop()
        if words and _TEST.fullmatch(words[-1]):
            found.append(folder)
    return found


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
