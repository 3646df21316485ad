"""The texts that an extension reads, from the start each time they are iterated, plain or as ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.vocab.tokenizer_json import TokenizerFile

if TYPE_CHECKING:
    from surgeon.data.source import Corpus


class Texts:
    """The texts of some corpora; each message of a conversation is a text of its own."""

    def __init__(self, corpora: Sequence[str], settings: ExtendVocabSettings) -> None:
        self.corpora, self.settings = corpora, settings

    def check(self) -> None:
        """Refuse corpora that are not there, or of which no file is read, without reading any."""
        from surgeon.data.source import files

        for corpus in self._parsed():
            if corpus.hub is None:
                files(corpus)

    def _parsed(self) -> Iterator[Corpus]:
        from surgeon.data.source import parse_corpus

        how = self.settings
        for name in self.corpora:
            yield parse_corpus(name, text_field=how.text_field, lines=how.lines, weighted=False)

    def __iter__(self) -> Iterator[str]:
        from surgeon.data.source import documents

        for corpus in self._parsed():
            for document in documents(corpus):
                yield from [document.text] if document.text is not None else [m["content"] for m in document.messages]


class Encoded:
    """Texts as ids of a tokenizer, without special tokens, a text at a time."""

    def __init__(self, file: TokenizerFile, texts: Texts) -> None:
        self.file, self.texts = file, texts

    def __call__(self) -> Iterator[list[int]]:
        tokenizer = self.file.load()
        for text in self.texts:
            yield tokenizer.encode(text, add_special_tokens=False).ids
