"""Refusals: what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

REFUSED = 1
USAGE = 2
DIFFERENCE = 3
INTERRUPTED = 130
# how to mend it where a multimodal model is given for a language model
EXTRACT = (
    "surgeon extract-language-model MODEL OUT takes its language model out, and graft-language-model puts it back"
)


class SurgeonError(Exception):
    """A refusal for people, in three lines.

    problem: one sentence, what is wrong. where: the file, tensor, option or document. hint: what to do.
    """

    code = REFUSED

    def __init__(self, problem: str, where: str, hint: str) -> None:
        super().__init__(problem)
        self.problem, self.where, self.hint = problem, where, hint

    def __str__(self) -> str:
        return f"{self.problem} [{self.where}] {self.hint}"

    def __reduce__(self) -> tuple[type[SurgeonError], tuple[str, str, str]]:
        return type(self), (self.problem, self.where, self.hint)


class UsageError(SurgeonError):
    """The words of the command (or the keys of a recipe) are wrong: exit code 2."""

    code = USAGE


class DifferenceFoundError(SurgeonError):
    """A verification found that a promise does not hold: exit code 3."""

    code = DIFFERENCE


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a hint: the nearest known words, else all of them, in the order given."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "known: " + ", ".join(known)
