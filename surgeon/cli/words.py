"""The words of a call before typer sees them, and the examples under a help text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from surgeon.errors import UsageError


@dataclass(frozen=True)
class Shape:
    """positional: how many arguments stand for themselves. several: options that take several values. switches:
    those that take none. once: those that take one, and are given once."""

    positional: int
    several: frozenset[str]
    switches: frozenset[str]
    once: frozenset[str]


SHAPES: dict[str, Shape] = {}
"""By command, filled when it is built."""
SWITCHES = frozenset(
    ("--json", "--quiet", "--debug", "--dry-run", "--force", "--print-config", "--help", "-h")
)  # fmt: skip
"""The switches that many commands share."""


def example_text(examples: Sequence[str], verbs: Sequence[str] = ()) -> str:
    """The end of a --help: the command's verbs, if it has any, and one example a line. Brackets would be read as
    markup."""
    told = ["Verbs:", *verbs] if verbs else []
    lines = [*told, "Examples:", *(f"$ {line}" for line in examples)]
    return "\n\n".join(line.replace("[", r"\[") for line in lines)


def spread(words: list[str]) -> list[str]:
    """`--data A B` as `--data A --data B`, once the command's positional arguments have been given.

    Raises UsageError on an option of one value that is given twice: the first would be lost.
    """
    if not words or words[0] not in SHAPES:
        return words
    shape = SHAPES[words[0]]
    names = Counter(word.partition("=")[0] for word in words[1:] if word.startswith("--"))
    for name, count in names.items():
        if count > 1 and name in shape.once:
            raise UsageError(
                f"{name} is given {count} times and takes one value",
                " ".join(["surgeon", *words]),
                "give it once",
            )
    result, seen, current, expects = [words[0]], 0, "", False
    for word in words[1:]:
        if word.startswith("-") and len(word) > 1:
            current = word if word in shape.several and seen >= shape.positional else ""
            expects = "=" not in word and word not in shape.switches
            result.append(word)
        elif expects:
            expects = False
            result.append(word)
        elif current:
            result += [current, word]
        else:
            seen += 1
            result.append(word)
    return result
