"""Corpora that methods of a run read by themselves: options that a method's module names in CORPORA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeon.data.source import Corpus, corpus_digest, parse_corpus
from surgeon.registry import Method

Chosen = Mapping[str, list[tuple[Method, dict[str, Any]]]]


def probes(chosen: Chosen) -> dict[str, Corpus]:
    """By the words in which they were given. Raises SurgeonError where there is no such corpus."""
    words = [
        options[name] for held in chosen.values() for method, options in held for name in method.trait("CORPORA", ())
        if options[name] is not None
    ]  # fmt: skip
    return {word: parse_corpus(word, weighted=False) for word in words}


def by_digest(record: dict[str, Any], held: Mapping[str, Corpus]) -> dict[str, Any]:
    """The record of a run with the digests of these corpora in their places, so that it is the same wherever they
    lie, and in `probes`. Without any, as it is."""
    if not held:
        return record
    digests = {word: corpus_digest(corpus) for word, corpus in held.items()}

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            for word in sorted(digests, key=len, reverse=True):
                value = value.replace(word, digests[word])
            return value
        if isinstance(value, list):
            return [replaced(v) for v in value]
        return {k: replaced(v) for k, v in value.items()} if isinstance(value, dict) else value

    words = ("objective", "optimizer", "schedule", "regularize", "meta", "option")
    return record | {key: replaced(record[key]) for key in words if key in record} | {"probes": [*digests.values()]}


def paths(chosen: Chosen) -> list[Path]:
    """Where they lie."""
    return [corpus.path for corpus in probes(chosen).values()]
