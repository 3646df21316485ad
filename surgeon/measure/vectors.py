"""How task vectors lie to their base and to each other, aligned by lineage; streamed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.merge.kinship import kinship
from surgeon.merge.members import open_member
from surgeon.merge.naming import told_apart
from surgeon.merge.pieces import attachments
from surgeon.merge.plan import Aligned, MergeSettings, align
from surgeon.ops.delta_sums import DeltaSums
from surgeon.ops.diagnosis import Diagnosis
from surgeon.ops.measure_sums import sums_of, with_torch
from surgeon.ops.plan import Apply, OutTensor, Zeros
from surgeon.progress import SILENT, Progress


def vectors(
    base: str | Path, models: Sequence[str | Path], progress: Progress = SILENT, threads: int = 2
) -> dict[str, Any]:
    """Task vectors against the base: norms, relative norms, and for every pair the cosine with its null and z,
    weighted sign conflicts and the disparity of norms (see Diagnosis); float32 by pieces, or float64
    where squares do not fit, their sums in float64.

    A model that is shallower or has fewer rows counts where it has tensors. units: by block and part; blocks, parts:
    sums of these; total: the whole model; pairs: of the total; outliers: units unlike the same part of other blocks;
    kinship: cosine of the weights with the base's, for models without lineage. Raises SurgeonError where a model does
    not come from the base.
    """
    settings = MergeSettings(
        base=str(base), out=Path("-"), add=[f"{model}=1" for model in models], special_tokens="merged"
    )
    aligned = align(settings)
    names = _names(aligned, [base, *models])
    diagnosis = Diagnosis(aligned.alignment.family, list(names))
    merged = [name for name in aligned.names if aligned.merges(name) and aligned.matrix(name) == name]
    planned = [out for name in merged if (out := _planned(aligned, name)) is not None]
    folder = aligned.alignment.target.tables_folder()
    tables = {name: (folder / name).read_bytes() for name in attachments(out.source for out in planned)}
    elsewhere = with_torch(aligned.inputs, tables)
    with (
        progress.task("measuring", sum(out.nbytes for out in planned), "bytes") as advance,
        ThreadPoolExecutor(threads) as pool,
    ):
        sums = pool.map(lambda out: (out, sums_of(out, aligned.inputs, elsewhere)), planned)
        for out, taken in sums:
            assert isinstance(out.source, Apply)
            _check_held(out.name, taken)
            diagnosis.add(out.name, taken, out.source.options["models"])
            advance(out.nbytes)
    found = diagnosis.report(names)
    related = {}
    for entry in aligned.members.added:
        near = kinship(aligned.members.base, entry.member) if entry.member.checkpoint.lineage is None else None
        if near is not None:
            related[names[entry.member.label]] = {"cosine": near[0], "relative": near[1], "matrices": near[2]}
    return {"base": aligned.members.base.name, **found, "pairs": found["total"]["pairs"], "kinship": related}


def _names(aligned: Aligned, given: Sequence[str | Path]) -> dict[str, str]:
    """Label -> what the model is called, in the order in which they were given behind the base; by digest, since one
    that equals the base is the base."""
    labels = {entry.member.digest: entry.member.label for entry in aligned.members.added}
    models = told_apart([open_member(str(model), "model") for model in given])[1:]
    return {labels[member.digest]: member.name for member in models}


def _check_held(name: str, sums: DeltaSums) -> None:
    """Values that are not finite were refused before; this is of squares that float64 does not hold."""
    if not all(map(math.isfinite, [*sums.dots, *sums.absolute])):
        raise SurgeonError(
            f"{name!r} has values above about 1e154, whose squares no float64 holds",
            "the models that were given",
            "norms of such values cannot be told: `surgeon inspect` shows where they are",
        )


def _planned(aligned: Aligned, name: str) -> OutTensor | None:
    """The tensor with all deltas that there are: they are measured, and what they would add up to is not, which may be
    more than the type holds."""
    alignment, target = aligned.alignment, aligned.members.target.checkpoint
    deltas = [(e.member.label, alignment.delta(e.member, name)) for e in aligned.members.added]
    there = [(label, delta) for label, delta in deltas if delta is not None]
    stored = target.tensors.get(name) or target.tensor(alignment.family.embedding)
    options = {"method": "task_arithmetic", "weights": [0.0] * len(there), "models": [label for label, _ in there]}
    reference = alignment.reference(name)
    if isinstance(reference, Zeros) and not there:
        return None
    dtype = "F32" if stored.dtype == "F16" else stored.dtype  # the base may be of a type that holds more
    return OutTensor(name, dtype, stored.shape, Apply("kernel:merge", (reference, *(d for _, d in there)), options))
