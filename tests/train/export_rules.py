"""What the other trainers do with an exported configuration, written down from their sources for the tests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any


def axolotl_trains(names: Iterable[str], patterns: list[str] | None) -> dict[str, list[tuple[int, int | None]]]:
    """Trained names with their row ranges (none: the whole tensor). axolotl src/axolotl/utils/freeze.py,
    LayerNamePattern and freeze_layers_except."""
    found: dict[str, list[tuple[int, int | None]]] = {}
    for name in names:
        if patterns is None:
            found[name] = []
        for pattern in patterns or ():
            split = re.match(r"^(.+)\[([0-9]*)(?::([0-9]*))?\]$", pattern)
            rows = None
            if split:
                pattern, start, end = split.groups()
                rows = (int(start), int(start) + 1) if end is None else (int(start or 0), int(end) if end else None)
            if re.compile(re.sub(r"\.(?!\+)", "\\\\.", pattern)).match(name):
                found.setdefault(name, []).extend([rows] if rows else [])
    return found


def llamafactory_trains(names: Sequence[str], config: dict[str, Any], num_layers: int) -> list[str]:
    """LLaMA-Factory src/llamafactory/model/adapter.py, _setup_freeze_tuning; its refusals as ValueError."""
    if config["finetuning_type"] == "full":
        return list(names)
    count, pro = config["freeze_trainable_layers"], config.get("use_llama_pro", False)
    if pro:
        if num_layers % count != 0:
            raise ValueError("should be divisible")
        stride = num_layers // count
        layers = range(stride - 1, num_layers + stride - 1, stride)
    elif count > 0:
        layers = range(max(0, num_layers - count), num_layers)
    else:
        layers = range(min(-count, num_layers))
    hidden, outside = set(), set()
    for name in names:
        if ".0." in name:
            hidden.add(name.split(".0.")[-1].split(".")[0])
        elif ".1." in name:
            hidden.add(name.split(".1.")[-1].split(".")[0])
        if re.search(r"\.\d+\.", name) is None:
            outside.add(name.split(".")[-2])
    words = []
    for module in config["freeze_trainable_modules"].split(","):
        if module != "all" and module not in hidden:
            raise ValueError(f"Module {module} is not found")
        words += [f".{i}.{module if module != 'all' else ''}" for i in layers]
    for module in filter(None, config.get("freeze_extra_modules", "").split(",")):
        if module not in outside:
            raise ValueError(f"Module {module} is not found")
        words.append(module)
    return [n for n in names if any(w in n for w in words)]


def axolotl_packs(lengths: list[int], capacity: int) -> list[list[int]]:
    """Numbers of the rows of each window. axolotl src/axolotl/utils/samplers/multipack.py, allocate_sequentially."""
    bins: list[list[int]] = [[]]
    room = capacity
    for number, size in enumerate(lengths):
        if size <= room:
            bins[-1].append(number)
            room -= size
        else:
            bins.append([number])
            room = capacity - size
    return bins


# field -> the file of the trainer in which it is declared
AXOLOTL_FIELDS = {
    **dict.fromkeys(("base_model", "output_dir", "trust_remote_code"), "src/axolotl/utils/schemas/model.py"),
    **dict.fromkeys(
        (
            "adapter", "lora_model_dir", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules",
            "lora_modules_to_save", "peft_use_rslora", "peft_use_dora",
        ),
        "src/axolotl/utils/schemas/peft.py",
    ),
    **dict.fromkeys(
        (
            "micro_batch_size", "gradient_accumulation_steps", "num_epochs", "optimizer", "lr_scheduler",
            "lr_scheduler_kwargs", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
            "max_grad_norm", "lr_groups",
        ),
        "src/axolotl/utils/schemas/training.py",
    ),
    **dict.fromkeys(
        (
            "datasets", "dataset_prepared_path", "dataset_exact_deduplication", "shuffle_merged_datasets",
            "val_set_size", "sequence_len", "sample_packing", "sample_packing_sequentially", "curriculum_sampling",
            "pad_to_sequence_len", "flash_attention", "warmup_steps", "warmup_ratio", "max_steps", "bf16", "seed",
            "logging_steps", "save_steps", "save_total_limit", "unfrozen_parameters", "context_parallel_size",
            "tensor_parallel_size",
        ),
        "src/axolotl/utils/schemas/config.py",
    ),
}  # fmt: skip
LLAMAFACTORY_FIELDS = {
    **dict.fromkeys(
        ("model_name_or_path", "adapter_name_or_path", "trust_remote_code"), "src/llamafactory/hparams/model_args.py"
    ),
    **dict.fromkeys(
        (
            "stage", "finetuning_type", "freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules",
            "use_llama_pro", "create_new_adapter",
        ),
        "src/llamafactory/hparams/finetuning_args.py",
    ),
    **dict.fromkeys(
        ("dataset_dir", "dataset", "mix_strategy", "interleave_probs", "cutoff_len"),
        "src/llamafactory/hparams/data_args.py",
    ),
    # TrainingArguments of transformers, which are installed: asked there
    **dict.fromkeys(
        (
            "do_train", "per_device_train_batch_size", "gradient_accumulation_steps", "optim", "lr_scheduler_type",
            "lr_scheduler_kwargs", "warmup_steps", "max_steps", "learning_rate", "weight_decay", "adam_beta1",
            "adam_beta2", "adam_epsilon", "max_grad_norm", "bf16", "seed", "logging_steps", "save_steps",
            "save_total_limit", "output_dir", "report_to",
        ),
        "transformers",
    ),
}  # fmt: skip
