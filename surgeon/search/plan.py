"""merge-task-vectors whose weights are found on held-out text: the search, then the plan of the merge as always."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from surgeon.checkpoint.digest import json_digest
from surgeon.checkpoint.sidecars import METRICS_PREFIX, SURGEON_DIR
from surgeon.merge.plan import Aligned, align, plan_merge
from surgeon.merge.settings import MergeSettings
from surgeon.ops.plan import Plan
from surgeon.progress import SILENT, Progress
from surgeon.search.held_out import HeldOut, corpora, held_out
from surgeon.search.objective import Objective
from surgeon.search.output_files import output_files
from surgeon.search.points import Space, search
from surgeon.search.record import SearchedCorpus, SearchedVector, SearchRecord, record_of, search_json
from surgeon.search.vectors import Vectors, objective_of, refuse_alone, vectors_of


def plan_merge_searched(settings: MergeSettings, progress: Progress = SILENT) -> Plan:
    """The plan of the merge; with `search`, the weights that were not given are found first.

    theta(w) = reference + scale x sum of w_i x delta_i is set in place in one live model and scored on whole
    documents of every corpus, the same ones at every w (nats per token, on the CPU in float32). First on a grid over
    the range, with the reference, each model alone and all at 1; then `search_rounds` times a quadratic surface
    through the points near the best one is minimised and its minimum evaluated. Only what was evaluated is chosen; of
    equal points the one of the least sum of |w|. The regret of a corpus at w is its loss at w less the least loss that
    any evaluated point has on it.
    The same inputs give the same choice with the same number of torch threads (OMP_NUM_THREADS): another number sums
    in another order, which changes the last digits of losses. The lineage of the output keeps all points with what was
    read (merge, search), and the weights as if they had been given: planning it again needs no search.
    Source: for weights by the loss on a few held-out examples, Xiao et al. 2023, LM-Cocktail (arXiv 2311.13534), which
    takes a softmax of each model's own loss; here the merged model's loss is measured.
    Raises UsageError on wrong options, SurgeonError on a test set, on models that do not meet, and where memory does
    not suffice (see surgeon.search.live).
    """
    if not settings.search:
        refuse_alone(settings)
        return plan_merge(settings, progress)
    texts = corpora(settings.search)
    objective = Objective(objective_of(settings, [c.name for c in texts]), tuple(c.name for c in texts))
    vectors = vectors_of(settings)
    ones = [1.0] * len(vectors.free)
    aligned = align(vectors.settings(settings, ones, settings.onto))
    onto = _onto(settings, vectors, aligned)
    draft = plan_merge(vectors.settings(settings, ones, onto))
    with output_files(draft) as folder:
        from surgeon.loading import load_tokenizer

        tokenizer = load_tokenizer(folder)
        held = [held_out(corpus, tokenizer, settings.search_tokens) for corpus in texts]
    record = _search(settings, vectors, aligned, draft, objective, held, progress)
    plan = plan_merge(vectors.settings(settings, record.points[record.choice].weights, onto), progress)
    assert plan.lineage.merge is not None
    plain = record.model_dump(mode="json")
    lineage = plan.lineage.model_copy(update={"merge": {**plan.lineage.merge, "search": plain}})
    return replace(plan, lineage=lineage, files={**plan.files, **_drawing(plan, record)})


def searched(plan: Plan) -> dict[str, Any]:
    """What a plan shows of its search (empty where there was none): its record, regrets and front."""
    found = (plan.lineage.merge or {}).get("search")
    if found is None:
        return {}
    return {"search": search_json(SearchRecord.model_validate(found), {i.digest: i.name for i in plan.inputs})}


def _search(
    settings: MergeSettings, vectors: Vectors, aligned: Aligned, draft: Plan, objective: Objective,
    held: Sequence[HeldOut], progress: Progress,
) -> SearchRecord:  # fmt: skip
    import torch

    from surgeon.search.scores import live_model, scores

    space = Space(len(vectors.free), *settings.search_range, settings.search_grid)
    live = live_model(settings, aligned, draft)
    count = sum(1 for _ in space.at_first())
    names = [e.member.name for e, v in zip(aligned.members.added, vectors.all, strict=True) if v.weight is None]
    progress.say(
        f"searching the weights of {', '.join(names)} on {', '.join(c.name for c in held)}: {count} points, then up "
        f"to {settings.search_rounds} more; {live.num_bytes / 1e6:,.0f} MB of weights in memory, in float32"
    )
    with progress.task("searching weights", count + settings.search_rounds, "evaluations") as advance:
        points = search(scores(live, vectors, held), space, objective, settings.search_rounds, advance)
    record = record_of(
        points, objective, span=settings.search_range, grid=settings.search_grid, rounds=settings.search_rounds,
        tokens=settings.search_tokens, threads=torch.get_num_threads(),
        vectors=[
            SearchedVector(digest=e.member.checkpoint.digest, adapter=e.member.adapter, weight=v.weight)
            for e, v in zip(aligned.members.added, vectors.all, strict=True)
        ],
        corpora=[
            SearchedCorpus(name=c.name, digest=c.digest, documents=len(c.items), tokens=c.tokens,
                           num_bytes=c.num_bytes)
            for c in held
        ],
    )  # fmt: skip
    chosen = dict(zip(names, record.points[record.choice].weights, strict=True))
    said = ", ".join(f"{name} {weight:g}" for name, weight in chosen.items())
    progress.say(f"chosen after {record.evaluations} evaluations: {said}")
    ends = [name for name, weight in chosen.items() if weight in settings.search_range and weight != 0]
    if ends:
        progress.say(f"{', '.join(ends)}: at an end of the range; a wider --search-range may do better")
    return record


def _onto(settings: MergeSettings, vectors: Vectors, aligned: Aligned) -> str:
    """The target in the words of the call: which model it is must not depend on the weights that are found."""
    if settings.onto is not None:
        return settings.onto
    texts = {vector.digest: vector.text for vector in vectors.all}
    return texts.get(aligned.members.target.digest, settings.base)


def _drawing(plan: Plan, record: SearchRecord) -> dict[str, str]:
    """Under a name that further operations on the output do not take; as measurements are, outside of the digests
    that planning again has to meet."""
    from surgeon.search.front_plot import search_svg

    digest = json_digest(record.model_dump(mode="json")).removeprefix("sha256:")[:12]
    names = record.names({i.digest: i.name for i in plan.inputs})
    return {f"{SURGEON_DIR}/{METRICS_PREFIX}search-{digest}.svg": search_svg(record, names, f"search-{digest}")}
