"""What all trainers built on transformers' Trainer have in common: what they cannot do, and the keys they share."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from surgeon.errors import UsageError
from surgeon.train.exported import ToExport
from surgeon.train.settings import CptSettings
from surgeon.train.trainer_schedule import TrainerSchedule, trainer_schedule

# settings of `cpt` that an exporter carries over, refuses or notes; one that is not here is refused when it is set
CARRIED = frozenset(
    {
        "model", "out", "data", "tokens", "replay", "replay_ratio", "train", "seq_len", "batch_tokens",
        "sampling", "micro_batch", "lr", "weight_decay", "betas", "clip", "schedule", "objective", "optimizer",
        "regularize", "option", "eval", "eval_every", "eval_tokens", "save_every", "keep_checkpoints", "resume",
        "keep_state", "device", "dtype", "seed", "loss_on", "packing", "format", "text_field", "lines",
        "trust_remote_code",
    }
)  # fmt: skip


def check(run: ToExport, also: Collection[str] = ()) -> TrainerSchedule:
    """Refuse what no such trainer can do; gives the schedule. also: further settings that this one carries over.
    Raises UsageError."""
    settings = run.settings
    for name, field in CptSettings.model_fields.items():
        if (
            name not in CARRIED
            and name not in also
            and getattr(settings, name) != field.get_default(call_default_factory=True)
        ):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} has no counterpart in {settings.to}", flag, "leave it out, or use `surgeon cpt`")
    for flag, found, known in (
        ("--objective", settings.objective, "next_token"),
        ("--optimizer", settings.optimizer, "adamw"),
    ):
        if found != known:
            raise UsageError(f"{settings.to} has no {found!r}", f"{flag} {found}", f"use {known}, or `surgeon cpt`")
    if settings.regularize:
        name = settings.regularize[0]
        raise UsageError(
            f"{settings.to} has no {name!r}", f"--regularize {name}", "leave it out, or use `surgeon cpt`"
        )
    if settings.resume:
        raise UsageError("an export is not a run that could go on", "--resume", "leave it out")
    if settings.seed >= 1 << 32:
        raise UsageError("transformers takes seeds below 2^32", f"--seed {settings.seed}", "give a smaller one")
    method, options = run.chosen["schedule"][0]
    return trainer_schedule(method, options, settings.lr, run.shape.steps)


def shared(run: ToExport, schedule: TrainerSchedule) -> dict[str, Any]:
    """Keys of transformers.TrainingArguments (src/transformers/training_args.py) that Axolotl
    (src/axolotl/utils/schemas/training.py, config.py) and LLaMA-Factory both take under the same name."""
    settings = run.settings
    save_every = settings.saved_every(run.shape.steps)
    return {
        "max_steps": run.shape.steps,
        "learning_rate": settings.lr,
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.betas[0],
        "adam_beta2": settings.betas[1],
        "adam_epsilon": run.chosen["optimizer"][0][1]["eps"],
        "max_grad_norm": settings.clip,
        "bf16": run.dtype == "bfloat16",
        "seed": settings.seed,
        "logging_steps": 1,
        "save_steps": save_every,
        "save_total_limit": settings.keep_checkpoints or 1,
        "lr_scheduler_kwargs": dict(schedule.options),
        "output_dir": "trained",
    }


def notes(run: ToExport, schedule: TrainerSchedule) -> list[str]:
    """Differences that every such trainer has."""
    settings, found = run.settings, []
    found.append(
        "transformers counts updates from 0: update k has the rate that `cpt` gives update k - 1, and the first one "
        + ("has the rate 0" if schedule.warmup else "has the peak")
    )
    if schedule.largest_difference > 1e-9:
        found.append(
            f"beside that, the schedule is apart by at most {schedule.largest_difference:.3g} of the peak "
            "(warm-up and decay are of whole updates there, and wsd warms up from its lowest rate)"
        )
    if run.adapter is None:
        found += _decay(run)
    elif settings.weight_decay and run.adapter_config.get("use_dora"):
        found.append("the magnitudes of DoRA decay there, here they do not")
    if settings.eval:
        found.append("--eval is not carried over: score the checkpoints with `surgeon evaluate`")
    if settings.device != "auto" or settings.keep_state:
        found.append("--device and --keep-state are of this machine's run and are not carried over")
    found.append(
        "dropout, and so the weights after training, differ from those of `surgeon cpt` with this seed; the output "
        "has no lineage (surgeon.json)"
    )
    return found


def _decay(run: ToExport) -> list[str]:
    if not run.settings.weight_decay:
        return []
    more = [n for n in run.trained if n in run.decayed and n in run.vectors]
    fewer = [n for n in run.trained if n not in run.decayed and n not in run.vectors]
    return [
        f"{len(names)} tensors {what}, such as {names[0]}"
        for names, what in ((more, "decay there and not here"), (fewer, "decay here and not there"))
        if names
    ]
