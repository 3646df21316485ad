"""The corpora that methods' options name: inputs of a run beside what it is trained on."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from surgeon.data.source import Corpus, CorpusWord, corpus_digest
from surgeon.registry import Method, Option
from surgeon.train.corpora import probe_corpus
from surgeon.train.settings import CptSettings

Chosen = Mapping[str, Sequence[tuple[Method, Mapping[str, Any]]]]
_WORDS = ("schedule", "objective", "optimizer", "regularize", "meta")


def names_corpus(option: Option) -> bool:
    """Whether the option is a CorpusWord, or one or None."""
    return option.annotation == CorpusWord or CorpusWord in typing.get_args(option.annotation)


def corpora(settings: CptSettings, chosen: Chosen) -> list[Corpus]:
    """All of them, in the order of the methods."""
    return [corpus for _, _, corpus in _found(settings, chosen)]


def record(settings: CptSettings, chosen: Chosen) -> dict[str, Any]:
    """What decides the result: their digests, and the settings that name them with names in place of paths. Empty
    where no option names a corpus."""
    found = list(_found(settings, chosen))
    if not found:
        return {}
    deciding = settings.deciding()
    changed: dict[str, Any] = {"probes": []}
    for key, word, corpus in found:
        entry = {"option": key, "name": corpus.name, "digest": corpus_digest(corpus)}
        if entry not in changed["probes"]:
            changed["probes"].append(entry)
        for setting in _WORDS:
            held = changed.get(setting, deciding[setting])
            changed[setting] = (
                _told(held, key, word, corpus)
                if isinstance(held, str)
                else [_told(w, key, word, corpus) for w in held]
            )
        options = changed.get("option", deciding["option"])
        changed["option"] = {
            k: corpus.name if k.rpartition(".")[2] == key and v == word else v for k, v in options.items()
        }
    return changed


def _told(method: str, key: str, word: str, corpus: Corpus) -> str:
    """NAME:OPTION=VALUE,... with the corpus' name in place of its path."""
    return re.sub(rf"(?<=[:,]){re.escape(f'{key}={word}')}(?=,|$)", lambda _: f"{key}={corpus.name}", method)


def _found(settings: CptSettings, chosen: Chosen) -> Iterator[tuple[str, str, Corpus]]:
    """(option, word, corpus)."""
    for held in chosen.values():
        for method, options in held:
            for key, option in method.options.items():
                if names_corpus(option) and options.get(key) is not None:
                    yield key, options[key], probe_corpus(settings, options[key])
