"""Which task vectors of a merge have their weight searched, and which keep the one that was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surgeon.errors import UsageError, did_you_mean
from surgeon.merge.members import open_member
from surgeon.merge.settings import MergeSettings
from surgeon.merge.weights import parse_weight

METHODS = ("task_arithmetic", "residual")  # theta(w) is a sum: one pass over the weights gives it
MOST = 3  # vectors: a grid of n weights each has n to that power points
OWN = ("search", "objective", "search_tokens", "search_range", "search_grid", "search_rounds")  # settings


@dataclass(frozen=True)
class Vector:
    """A model of --add: the words for it without a weight, its digest, its weight (None: searched)."""

    text: str
    digest: str
    weight: float | None


@dataclass(frozen=True)
class Vectors:
    """The task vectors in the order of their digests, as a merge has them."""

    all: tuple[Vector, ...]

    @property
    def free(self) -> list[Vector]:
        """Those that are searched."""
        return [vector for vector in self.all if vector.weight is None]

    def weights(self, found: Sequence[float]) -> list[float]:
        """The weights of all; found: of those that are searched, in order."""
        rest = iter(found)
        return [next(rest) if vector.weight is None else vector.weight for vector in self.all]

    def settings(self, settings: MergeSettings, found: Sequence[float], onto: str | None) -> MergeSettings:
        """The merge with these weights and no search: what its lineage records, and what plans it again."""
        words = [f"{v.text}={w!r}" for v, w in zip(self.all, self.weights(found), strict=True)]
        plain = {name: MergeSettings.model_fields[name].get_default(call_default_factory=True) for name in OWN}
        return settings.model_copy(update=plain | {"add": words, "onto": onto})


def vectors_of(settings: MergeSettings) -> Vectors:
    """Raises UsageError on a method whose models are not sums, on weights that vary, and on none or too many to
    search."""
    if settings.method not in METHODS:
        raise UsageError(
            f"weights of {settings.method} are not searched: its merged weights are no sum of deltas, so every point "
            "would be a merge of its own",
            "--search",
            f"use --method {' or '.join(METHODS)}, or merge with some weights and compare: surgeon evaluate",
        )
    found = []
    for text in settings.add:
        name, weight = parse_weight(text)
        given = None if name == text else weight.constant
        if name != text and given is None:
            raise UsageError(
                "with --search a weight is one number: none that varies over depth or parts is searched, or kept",
                f"--add {text}",
                f"give --add {name} to search its weight, or --add {name}=NUMBER to keep it",
            )
        found.append(Vector(name, open_member(name, "tuned", any_base=True).digest, given))
    vectors = Vectors(tuple(sorted(found, key=lambda v: v.digest)))
    if not 1 <= len(vectors.free) <= MOST:
        problem = "every model has a weight, so none is left to search" if not vectors.free else (
            f"the weights of {len(vectors.free)} models are too many to search: at most {MOST}"
        )  # fmt: skip
        cure = "leave =WEIGHT out of those to search" if not vectors.free else "give some of them: --add MODEL=WEIGHT"
        raise UsageError(problem, "--add", cure)
    return vectors


def refuse_alone(settings: MergeSettings) -> None:
    """Options of a search without one. Raises UsageError."""
    fields = MergeSettings.model_fields
    for name in OWN[1:]:
        if getattr(settings, name) != fields[name].get_default(call_default_factory=True):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} says how weights are searched, and there is no --search", flag, "add --search")


def objective_of(settings: MergeSettings, names: Sequence[str]) -> str:
    """`min-max`, `mean` or the name of a corpus. Raises UsageError on anything else, and on corpora called so."""
    for name in names:
        if name in ("min-max", "mean"):
            raise UsageError(
                f"a corpus cannot be called {name!r}: it is an objective", "--search", "give another NAME"
            )
    known = ["min-max", "mean", *names]
    if settings.objective not in known:
        raise UsageError(
            f"there is no objective {settings.objective!r}", "--objective", did_you_mean(settings.objective, known)
        )
    return settings.objective
