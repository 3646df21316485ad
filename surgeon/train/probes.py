"""Corpora that methods of a run read by themselves: options that a method's module names in CORPORA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.data.pack import Packed
from surgeon.data.source import Corpus, corpus_digest, parse_corpus
from surgeon.data.tokens import Tokens, tokenise
from surgeon.errors import SurgeonError
from surgeon.registry import Method
from surgeon.train.matrices import matrix_of

if TYPE_CHECKING:
    from surgeon.train.hook import Run
    from surgeon.train.outline import Outline

_WORDS = ("objective", "optimizer", "schedule", "regularize", "meta", "option")  # of a record, that name probes
STREAM = 1 << 20  # an order of its own: corpora of a run have the first streams
Chosen = Mapping[str, list[tuple[Method, dict[str, Any]]]]


def probes(chosen: Chosen) -> dict[str, Corpus]:
    """By the words in which they were given. Raises SurgeonError where there is no such corpus."""
    words = [
        options[name] for held in chosen.values() for method, options in held for name in method.trait("CORPORA", ())
    ]
    return {word: parse_corpus(word, weighted=False) for word in words if word is not None}


def by_digest(record: dict[str, Any], held: Mapping[str, Corpus]) -> dict[str, Any]:
    """The record of a run with the digests of these corpora in their places, so that it is the same wherever they
    lie, and in `probes`. Without any, as it is."""
    if not held:
        return record
    digests = {word: corpus_digest(corpus) for word, corpus in held.items()}
    return _replaced(record, digests) | {"probes": [*digests.values()]}


def by_word(record: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The other way round: a record of `by_digest` with the words in their places. words: the corpora that the run
    read, each as it was given it. Raises SurgeonError where one lacks, and on one that it did not read."""
    held = {corpus_digest(parse_corpus(word, weighted=False)): word for word in words}
    wanted = record.get("probes", [])
    absent = [digest for digest in wanted if digest not in held]
    odd = [word for digest, word in held.items() if digest not in wanted]
    if absent or odd:
        raise SurgeonError(
            f"the methods of the run read no corpus with the bytes of {odd[0]}"
            if odd
            else f"methods of the run read corpora by themselves, and {len(absent)} of {len(wanted)} is not given",
            "--probe",
            "give those of its methods, each as the run was given it: --probe NAME=PATH",
        )
    return _replaced(record, held)


def _replaced(record: dict[str, Any], others: Mapping[str, str]) -> dict[str, Any]:
    """A record in whose methods and options each of these words is another one; the longest goes first."""

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            for word in sorted(others, key=len, reverse=True):
                value = value.replace(word, others[word])
            return value
        if isinstance(value, list):
            return [replaced(v) for v in value]
        return {k: replaced(v) for k, v in value.items()} if isinstance(value, dict) else value

    return record | {key: replaced(record[key]) for key in _WORDS if key in record}


def text_of(run: Run | Outline, word: str) -> Tokens:
    """The tokens of such a corpus, made once while a run is made ready."""
    if word not in run.texts:
        run.texts[word] = tokenise(parse_corpus(word, weighted=False), run.tokenizer)
    return run.texts[word]


def packed(run: Run | Outline, probe: str) -> Packed:
    """The windows of such a corpus, in an order of its own. Raises SurgeonError on ids that the model has no row for,
    and where nothing is to be learned."""
    text = text_of(run, probe)
    if int(text.ids.max()) >= matrix_of(run.model.get_input_embeddings()).shape[0]:
        raise SurgeonError("the probe has ids that the model has no row for", probe, "give the model's own tokenizer")
    if not text.learn.any():
        raise SurgeonError("the probe has nothing to learn", probe, "look at its answers")
    return Packed(text, run.seq_len, run.seed, STREAM, "whole" if text.instruct else "split")


def paths(chosen: Chosen) -> list[Path]:
    """Where they lie."""
    return [corpus.path for corpus in probes(chosen).values()]
