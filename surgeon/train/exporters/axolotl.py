"""Axolotl: https://github.com/axolotl-ai-cloud/axolotl."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from surgeon.errors import SurgeonError, UsageError
from surgeon.train.exported import Exported, ToExport
from surgeon.train.exporters import _trainer
from surgeon.train.exporters._adapter import check_adapter
from surgeon.train.exporters._rows import write_rows
from surgeon.train.trainer_schedule import TrainerSchedule

DATA = "rows.jsonl"
# the rows are the run's own, in its order; groups are lr_groups
_ALSO = ("group", "mixture", "order", "replay_mode")


def axolotl(run: ToExport, *, context_parallel_size: int = 1, tensor_parallel_size: int = 1) -> Exported:
    """Axolotl: FSDP2 with tensor and context parallelism; the run's own tokens as rows, the trained names as a list.

    Data are tokenised rows in the order of the run, packed again in that order with attention inside a document:
    Axolotl mixes no data sets by weight, and rows keep shares, ends of documents and answers as they are here.
    Fields: src/axolotl/utils/schemas/{config,training,model,datasets,peft}.py; rows: docs/dataset-formats/
    tokenized.qmd; packing in order: src/axolotl/utils/samplers/multipack.py (allocate_sequentially).
    Source: github.com/axolotl-ai-cloud/axolotl
    """
    parallel = {"context_parallel_size": context_parallel_size, "tensor_parallel_size": tensor_parallel_size}
    for name, value in parallel.items():
        if value < 1:
            raise UsageError(f"{name}={value} is not a number of GPUs", f"--option-to {name}", "give 1 or more")
    schedule = _trainer.check(run, also=_ALSO)
    check_adapter(run)
    # schemas/validation.py, check_context_parallel_size: packed rows are one a pass under context parallelism
    micro = run.micro_batch(at_most=1 if context_parallel_size > 1 else None)
    config: dict[str, Any] = {
        **_model(run),
        "datasets": [{"path": DATA, "ds_type": "json", "type": None}],
        "dataset_prepared_path": "prepared",
        "dataset_exact_deduplication": False,  # a document that is read twice is there twice
        "shuffle_merged_datasets": False,
        "val_set_size": 0.0,
        "sequence_len": run.shape.seq_len,
        "sample_packing": True,
        "sample_packing_sequentially": True,
        "curriculum_sampling": True,
        "pad_to_sequence_len": True,
        "flash_attention": True,
        "micro_batch_size": micro,
        "gradient_accumulation_steps": run.accumulation(micro),
        "num_epochs": 1,
        "optimizer": "adamw_torch_fused",
        "lr_scheduler": schedule.name,
        **_warmup(schedule),
        **_trainer.shared(run, schedule),
    }
    groups, unreached = _groups(run)
    _check_groups(run, unreached)
    if groups:
        config["lr_groups"] = groups
    patterns = _unfrozen(run)
    if patterns:
        config["unfrozen_parameters"] = patterns
    config |= {name: value for name, value in parallel.items() if value > 1}
    notes = [*_notes(run, schedule, unreached), *_trainer.notes(run, schedule)]
    files = {DATA: partial(write_rows, mixture=run.data.mixture, steps=run.shape.steps)}
    return Exported("axolotl.yaml", config, notes, "axolotl train axolotl.yaml", files)


def _model(run: ToExport) -> dict[str, Any]:
    """base_model and revision_of_model (schemas/model.py, config.py), adapter settings (schemas/peft.py)."""
    if run.ref.revision is None:
        found: dict[str, Any] = {"base_model": str(run.ref.path.resolve())}
    else:
        found = {"base_model": run.ref.name.partition("@")[0], "revision_of_model": run.ref.revision}
    if run.settings.trust_remote_code:
        found["trust_remote_code"] = True
    if run.adapter is None:
        return found
    held = run.adapter_config
    modules = held.get("target_modules")
    if held["lora_alpha"] != int(held["lora_alpha"]):
        raise UsageError(
            f"Axolotl takes whole alphas, not {held['lora_alpha']}", str(run.adapter), "use `surgeon cpt`"
        )
    found |= {
        "adapter": "lora",
        "lora_model_dir": str(run.adapter.resolve()),
        "lora_r": held["r"],
        "lora_alpha": int(held["lora_alpha"]),
        "lora_dropout": held.get("lora_dropout", 0.0),
        "lora_target_modules": modules if isinstance(modules, str) else sorted(modules or ()),
    }
    for key, name in (("use_rslora", "peft_use_rslora"), ("use_dora", "peft_use_dora")):
        if held.get(key):
            found[name] = True
    if held.get("modules_to_save"):
        found["lora_modules_to_save"] = list(held["modules_to_save"])
    return found


def _warmup(schedule: TrainerSchedule) -> dict[str, Any]:
    """core/builders/base.py, _configure_warmup_and_logging: warmup_steps of 0 mean 3 %, so no warm-up is written as a
    share that comes to nothing."""
    return {"warmup_steps": schedule.warmup} if schedule.warmup else {"warmup_ratio": 1e-9}


def _groups(run: ToExport) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """lr_groups, and the multipliers that they do not reach. core/trainers/mixins/optimizer.py: a group takes the
    parameters that decay and whose name holds one of its `modules`; norms, biases, embeddings and head it does not."""
    reached: dict[float, list[str]] = {}
    unreached = {}
    for name, factor in run.multipliers.items():
        if name in run.decayed and not any(part in name for part in ("embed_tokens", "lm_head")):
            reached.setdefault(factor, []).append(name)
        else:
            unreached[name] = factor
    groups = [
        {"name": f"times_{factor:g}", "modules": names, "lr": run.settings.lr * factor}
        for factor, names in reached.items()
    ]
    return groups, unreached


def _check_groups(run: ToExport, unreached: dict[str, float]) -> None:
    """Refuse groups that a person asks for and lr_groups cannot say."""
    flag = "--group"
    if run.settings.group and run.adapter is not None:
        raise UsageError("Axolotl's lr_groups are of the model's own tensors, not an adapter's", flag, "leave it out")
    if run.decays:
        raise UsageError("Axolotl's lr_groups have no weight decay of their own", flag, "leave weight_decay out of it")
    missed = [name for name in unreached if name in run.grouped]
    if missed:
        raise UsageError(
            f"Axolotl's lr_groups reach no norms, biases, embeddings and heads, as {missed[0]}",
            flag,
            "name matrices of blocks, or use `surgeon cpt`",
        )


def _unfrozen(run: ToExport) -> list[str]:
    """unfrozen_parameters: expressions that match exactly the trained names; empty where everything is trained.

    src/axolotl/utils/freeze.py, LayerNamePattern: matched at the beginning of a name (re.match), a dot stands for a
    dot unless a plus follows, and `[start:stop]` at the end are rows whose gradient is kept.
    """
    if run.adapter is not None or (not run.rows and set(run.trained) == set(run.names)):
        return []
    if run.rows:
        if run.settings.weight_decay:
            raise UsageError(
                "Axolotl freezes rows by their gradient alone: with weight decay the old ones would shrink",
                "--train new-rows",
                "add --weight-decay 0",
            )
        return [f"^{name}$[{a}:{b}]" for name, ids in run.rows.items() for a, b in ranges(ids)]
    patterns, left = [], list(run.trained)
    for stem in dict.fromkeys(m[1] for n in run.trained if (m := re.match(r"(.*?\.\d+\.)", n))):
        inside = [n for n in run.names if n.startswith(stem)]
        if set(inside) <= set(left):
            patterns.append(f"^{stem}")
            left = [n for n in left if not n.startswith(stem)]
    patterns += [f"^{name}$" for name in left]
    if matched(patterns, run.names) != list(run.trained):
        raise SurgeonError(
            "the trained names cannot be written as unfrozen_parameters", "--train", "report this as a bug"
        )
    return patterns


def matched(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that Axolotl leaves trainable, in their order."""
    found = [re.compile(re.sub(r"\.(?!\+)", r"\\.", p)) for p in patterns]
    return [n for n in names if any(p.match(n) for p in found)]


def ranges(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Row ids as half-open ranges, ascending."""
    found: list[tuple[int, int]] = []
    for row in sorted(ids):
        if found and found[-1][1] == row:
            found[-1] = (found[-1][0], row + 1)
        else:
            found.append((row, row + 1))
    return found


def _notes(run: ToExport, schedule: TrainerSchedule, unreached: dict[str, float]) -> list[str]:
    found = [
        "the token behind a cut in a document is not learned there (at most one a row)",
        f"{DATA} holds one pass over the run; one row more or less may fit into a window where rows are padded",
    ]
    if run.settings.loss_on == "response" and any(s.packed.tokens.instruct for s in run.data.sources):
        # src/axolotl/utils/trainer.py, drop_no_trainable_tokens; of some versions it lets all pass
        found.append(
            "a row in which nothing is learned (a prompt as long as it) may be dropped there: later ones move up"
        )
    if run.dtype == "bfloat16" and run.adapter is None:
        found.append("weights and the optimizer's moments are bfloat16 there (bf16), here they are float32")
    if schedule.warmup == 1:
        found.append("Axolotl makes a warm-up of 1 update one of 2")
    for factor in dict.fromkeys(unreached.values()):
        names = [n for n, f in unreached.items() if f == factor]
        found.append(
            f"lr_groups reach no norms, biases, embeddings and heads: {len(names)} tensors, such as {names[0]}, are "
            f"trained at the plain learning rate instead of {factor:g} times it"
        )
    if run.rows:
        found.append("single rows are frozen by hooks on whole gradients: not with FSDP or ZeRO-3, which shard them")
    if run.settings.ranks > 1:
        found.append(f"the batch is {run.shape.rows} rows only on {run.settings.ranks} data-parallel ranks")
    return found
