"""What a sequence of trainings kept and gave to each other: the loss on every stage's text after every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from surgeon.errors import UsageError, did_you_mean

UNIT = "bits_per_byte"


def check_stages(stages: Sequence[str], models: Sequence[str], corpora: Sequence[str]) -> None:
    """Raise UsageError where the models are not the base and one behind each stage, or a stage has no corpus."""
    for name in stages:
        if name not in corpora:
            raise UsageError(f"the stage {name!r} has no corpus", "--stages", did_you_mean(name, corpora))
        if list(stages).count(name) > 1:
            raise UsageError(f"the stage {name!r} is named twice", "--stages", "a stage that came twice has two names")
    if stages and len(models) != len(stages) + 1:
        raise UsageError(
            f"{len(stages)} stages make {len(stages) + 1} models, and {len(models)} are given",
            "--stages",
            "give the base, then the model behind each stage, in their order",
        )


def transfer(result: Mapping[str, Any], stages: Sequence[str]) -> dict[str, Any]:
    """{"unit", "corpora": [{"name", "stage", "before", "learned", "last", "forgetting"}], "learned", "last",
    "backward_transfer", "forward_transfer"} of the JSON of evaluate, whose models are the base and one behind each of
    the `stages`, by the names of their corpora.

    With R[i, j] the bits a byte of corpus j behind stage i (0: the base) and T stages: before R[0, j], learned R[j, j]
    (None of a corpus that no stage learned), last R[T, j], forgetting last - learned (of such a corpus: last -
    before). backward_transfer is the mean over j < T of R[T, j] - R[j, j], forward_transfer the mean over j > 1 of
    R[j-1, j] - R[0, j]: losses, so less is better, and 0 of one stage. learned and last are means over the stages.
    Source: Yildiz et al. 2024 (2402.17400), in bits a byte in place of perplexity, which a new vocabulary changes.
    """
    losses = [{c["name"]: float(c[UNIT]) for c in model["corpora"]} for model in result["models"]]
    count = len(stages)
    corpora = []
    for name in losses[0]:
        stage = list(stages).index(name) + 1 if name in stages else None
        before, last = losses[0][name], losses[count][name]
        learned = None if stage is None else losses[stage][name]
        corpora.append(
            {"name": name, "stage": stage, "before": before, "learned": learned, "last": last,
             "forgetting": last - (before if learned is None else learned)}
        )  # fmt: skip
    back = [losses[count][name] - losses[j][name] for j, name in enumerate(stages, start=1) if j < count]
    ahead = [losses[j - 1][name] - losses[0][name] for j, name in enumerate(stages, start=1) if j > 1]
    return {
        "unit": UNIT,
        "corpora": corpora,
        "learned": fmean(losses[j][name] for j, name in enumerate(stages, start=1)),
        "last": fmean(losses[count][name] for name in stages),
        "backward_transfer": fmean(back) if back else 0.0,
        "forward_transfer": fmean(ahead) if ahead else 0.0,
    }
