"""What stays of a search: in the lineage of its output, and with what follows from it, for people and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from surgeon.search.objective import Kind, Objective, Point, choose, front, losses_of, regrets_of
from surgeon.search.points import compared


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SearchedVector(_Strict):
    """A model by its digest (and its adapter's). weight: the one that was given, None where it was searched."""

    digest: str
    adapter: str | None = None
    weight: float | None = None


class SearchedCorpus(_Strict):
    """documents, tokens, num_bytes: of what was scored of it, for every point the same."""

    name: str
    digest: str
    documents: int
    tokens: int
    num_bytes: int


class SearchedPoint(_Strict):
    """weights: of the searched vectors, in order. losses: on the corpora in order, in nats per token."""

    weights: list[float]
    losses: list[float]
    kind: Kind


class SearchRecord(_Strict):
    """merge["search"] of a lineage. points: all that were evaluated, in order; choice: the number of one of them.
    evaluations: how often the model read all corpora. threads: of torch; another number sums in another order, which
    shows in the last digits of losses."""

    objective: str
    formula: str
    span: tuple[float, float]
    grid: int
    rounds: int
    tokens: int
    vectors: list[SearchedVector]
    corpora: list[SearchedCorpus]
    points: list[SearchedPoint]
    choice: int
    evaluations: int
    threads: int

    @property
    def as_objective(self) -> Objective:
        return Objective(self.objective, tuple(corpus.name for corpus in self.corpora))

    @property
    def as_points(self) -> list[Point]:
        return [Point(tuple(p.weights), tuple(p.losses), p.kind) for p in self.points]

    @property
    def regrets(self) -> list[list[float]]:
        """By point and corpus, in nats per token."""
        found: list[list[float]] = regrets_of(losses_of(self.as_points)).tolist()
        return found

    @property
    def values(self) -> list[float]:
        """Of the objective, by point."""
        found: list[float] = self.as_objective.of(regrets_of(losses_of(self.as_points))).tolist()
        return found

    @property
    def front(self) -> list[bool]:
        """Whether a point is on the Pareto front."""
        return front(losses_of(self.as_points))

    def names(self, known: Mapping[str, str], searched: bool = True) -> list[str]:
        """What the vectors are called, those that were searched or those that were not; known: digest -> name."""

        def name(vector: SearchedVector) -> str:
            model = known.get(vector.digest, vector.digest[:15])
            if vector.adapter is None:
                return model
            # known as MODEL+ADAPTER, by one of the models that it is on
            return f"{model}+{known.get(vector.adapter, vector.adapter[:15]).rpartition('+')[2]}"

        return [name(vector) for vector in self.vectors if (vector.weight is None) == searched]

    def labels(self, names: Sequence[str]) -> dict[int, str]:
        """Points that have a name: the reference, a model alone, all at weight 1."""
        places = {tuple(point.weights): number for number, point in enumerate(self.points)}
        words = ["reference", *(f"{name} alone" for name in names), "all at 1"]
        return {places[weights]: word for weights, word in zip(compared(len(names)), words, strict=False)}


def record_of(points: Sequence[Point], objective: Objective, **about: Any) -> SearchRecord:
    """The record of a finished search; about: the fields that do not follow from the points."""
    span = about["span"]
    return SearchRecord(
        objective=objective.name,
        formula=objective.formula,
        points=[SearchedPoint(weights=list(p.weights), losses=list(p.losses), kind=p.kind) for p in points],
        choice=choose(points, objective, span),
        evaluations=len(points),
        **about,
    )


def search_json(record: SearchRecord, known: Mapping[str, str]) -> dict[str, Any]:
    """The record with what follows from it: names of the vectors, regrets, the front, the choice's weights by name."""
    names = record.names(known)
    plain = record.model_dump(mode="json")
    labels = record.labels(names)
    extra = zip(record.regrets, record.values, record.front, strict=True)
    for number, (point, (regrets, value, best)) in enumerate(zip(plain["points"], extra, strict=True)):
        point |= {"regrets": regrets, "value": value, "front": best, "label": labels.get(number)}
    chosen = record.points[record.choice]
    fixed = [v.weight for v in record.vectors if v.weight is not None]
    return plain | {
        "models": names,
        "fixed": dict(zip(record.names(known, searched=False), fixed, strict=True)),
        "weights": dict(zip(names, chosen.weights, strict=True)),
        "losses": dict(zip(record.as_objective.corpora, chosen.losses, strict=True)),
    }
