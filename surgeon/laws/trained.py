"""A finished `surgeon cpt` run as a point of a law, from what its lineage says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import LINEAGE_FILE, read_lineage
from surgeon.errors import SurgeonError, UsageError, did_you_mean
from surgeon.laws.read_runs import Run

CPT = "cpt"


def read_trained(folder: Path, general: str | None, domain: str | None) -> Run:
    """Parameters by the headers, tokens and the domain's share as trained, the last evaluations of the two corpora.

    The domain is what is not replay. general, domain: names of `--eval` of the run. The evaluation before the first
    step is where the general loss starts. Only the end of a run counts: before it the learning rate has not fallen.
    """
    if general is None or domain is None:
        raise UsageError(
            "a folder of a run needs the names of its evaluations", str(folder), "add --general NAME --domain NAME"
        )
    lineage = read_lineage(folder)
    if lineage is None or lineage.operation != CPT or lineage.training is None:
        raise SurgeonError(
            f"no finished training is told in {LINEAGE_FILE}", str(folder), "give the folder of a cpt run"
        )
    training = lineage.training
    if "of_steps" in training:
        raise SurgeonError(
            f"the run is at step {training['steps']} of {training['of_steps']}",
            str(folder),
            "finish it with --resume, or leave it out",
        )
    if lineage.adapter is not None:
        raise SurgeonError(
            "the folder holds an adapter, not the whole model", str(folder), "write the run's numbers into a .csv"
        )
    trained = {
        replay: sum(d["trained_tokens"] for d in training["data"] if d["replay"] is replay) for replay in (False, True)
    }
    return Run(
        parameters=_parameters(folder),
        tokens=training["tokens"],
        share=trained[False] / (trained[False] + trained[True]),
        general=_loss(training, general, training["steps"], folder),
        domain=_loss(training, domain, training["steps"], folder),
        general_start=_loss(training, general, 0, folder),
    )


def _parameters(folder: Path) -> int:
    from surgeon.arch.family import family_of
    from surgeon.arch.parameters import parameters

    checkpoint = Checkpoint.open(folder)
    return sum(math.prod(t.shape) for t in parameters(checkpoint, family_of(checkpoint)))


def _loss(training: dict[str, Any], name: str, step: int, folder: Path) -> float:
    evals = training.get("eval") or []
    names = list(dict.fromkeys(e["name"] for e in evals))
    if name not in names:
        hint = did_you_mean(name, names) if names else "train it with --eval NAME=CORPUS"
        raise SurgeonError(f"the run has no evaluation {name!r}", str(folder), hint)
    for e in evals:
        if e["name"] == name and e["step"] == step:
            return float(e["nats_per_token"])
    raise SurgeonError(f"{name!r} was not evaluated at step {step}", str(folder), "train it again with --eval")
