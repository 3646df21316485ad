"""The live model of a merge, and its losses at some weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from surgeon import registry
from surgeon.errors import SurgeonError
from surgeon.merge.plan import Aligned
from surgeon.merge.settings import MergeSettings
from surgeon.ops.plan import Plan
from surgeon.search.held_out import HeldOut
from surgeon.search.live import Live
from surgeon.search.parts import Sources
from surgeon.search.points import Losses, Weights
from surgeon.search.special_rows import SpecialRows
from surgeon.search.vectors import Vectors


def live_model(settings: MergeSettings, aligned: Aligned, plan: Plan, memory: int | None = None) -> Live:
    """The model of a plan at any weights; aligned: the same merge. memory: bytes that the weights may take."""
    whole = registry.get("merge", settings.method).trait("ONTO_WHOLE", False)
    sources = Sources(
        aligned.alignment,
        aligned.inputs,
        {tensor.name: tensor for tensor in plan.tensors},
        frozenset(name for name in aligned.names if aligned.merges(name)),
        tuple(entry.member for entry in aligned.members.added),
        aligned.members.target if whole else None,
    )
    special = SpecialRows(aligned, settings.special_tokens == "merged")
    return Live(plan, sources, special, settings.scale, memory)


def scores(live: Live, vectors: Vectors, held: Sequence[HeldOut]) -> Callable[[Weights], Losses]:
    """The losses on the corpora in nats per token, by the weights of the searched vectors. Raises SurgeonError where
    one is not a number."""
    from surgeon.train.score import score, window_length

    context = window_length(live.model, None)

    def at(weights: Weights) -> Losses:
        live.at(vectors.weights(weights))
        try:
            return tuple(score(live.model, corpus.items, context).nats_per_token for corpus in held)
        except SurgeonError as error:
            where = f"--search, at weights {', '.join(f'{w:g}' for w in weights)}"
            raise SurgeonError(error.problem, where, f"narrow --search-range; {error.hint}") from error

    return at
