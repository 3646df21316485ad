"""LLaMA-Factory: https://github.com/hiyouga/LLaMA-Factory, its stage `pt`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from surgeon.checkpoint.config_json import dump_json
from surgeon.data.source import documents
from surgeon.data.template import render
from surgeon.data.tokens import specials
from surgeon.errors import SurgeonError, UsageError
from surgeon.train.corpora import Source
from surgeon.train.exported import Exported, ToExport
from surgeon.train.exporters import _trainer
from surgeon.train.exporters._adapter import check_adapter
from surgeon.train.exporters._freeze import freeze_of

INFO = "dataset_info.json"


def llamafactory(run: ToExport) -> Exported:
    """LLaMA-Factory, stage pt: texts by name in dataset_info.json, mixed by probability; trained blocks by its freeze
    rule where that can say them.

    A corpus that is one .jsonl or .parquet file of texts stays where it is; others are written beside the
    configuration. Fields: src/llamafactory/hparams/{finetuning,data,model}_args.py; data sets: data/README.md and
    src/llamafactory/data/parser.py; mixing: src/llamafactory/data/data_utils.py (interleave_datasets).
    Source: github.com/hiyouga/LLaMA-Factory
    """
    schedule = _trainer.check(run)
    check_adapter(run)
    _check_data(run)
    micro = run.micro_batch()
    sources = [s for s in run.data.sources if s.share > 0]
    info, files = _datasets(run, sources)
    config: dict[str, Any] = {
        **_model(run),
        "stage": "pt",
        "do_train": True,
        **_finetuning(run),
        "dataset_dir": ".",
        "dataset": ",".join(info),
        **_mixture(sources),
        "cutoff_len": run.shape.seq_len,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": run.accumulation(micro),
        "optim": "adamw_torch_fused",
        "lr_scheduler_type": schedule.name,
        "warmup_steps": schedule.warmup,
        **_trainer.shared(run, schedule),
        "report_to": "none",
    }
    files[INFO] = partial(_write, text=dump_json(info))
    notes = [*_notes(run, sources), *_trainer.notes(run, schedule)]
    return Exported("llamafactory.yaml", config, notes, "llamafactory-cli train llamafactory.yaml", files)


def _model(run: ToExport) -> dict[str, Any]:
    """Fields of src/llamafactory/hparams/model_args.py."""
    if run.ref.revision is None:
        found: dict[str, Any] = {"model_name_or_path": str(run.ref.path.resolve())}
    else:
        found = {"model_name_or_path": run.ref.name.partition("@")[0], "model_revision": run.ref.revision}
    if run.settings.trust_remote_code:
        found["trust_remote_code"] = True
    if run.adapter is not None:
        found["adapter_name_or_path"] = str(run.adapter.resolve())
    return found


def _finetuning(run: ToExport) -> dict[str, Any]:
    """finetuning_type, and the freeze settings that train exactly the chosen set. An adapter goes on as it is
    (adapter.py, _setup_lora_tuning: the last of adapter_name_or_path is loaded trainable)."""
    if run.adapter is not None:
        return {"finetuning_type": "lora", "create_new_adapter": False}
    if run.rows:
        raise UsageError(
            "LLaMA-Factory cannot train single rows of a matrix",
            "--train new-rows",
            "use --to axolotl, or `surgeon cpt`",
        )
    if set(run.trained) == set(run.names):
        return {"finetuning_type": "full"}
    rule = freeze_of(run.names, run.trained, run.depth)
    if rule is None:
        raise UsageError(
            "LLaMA-Factory's freeze settings cannot name this set: they take the first or last blocks or every n-th "
            "one, whole parts of them, and modules outside of the blocks",
            f"--train {run.settings.train}",
            "use --to axolotl, which takes names, or `surgeon cpt`",
        )
    return {"finetuning_type": "freeze"} | rule.as_config()


def _check_data(run: ToExport) -> None:
    for source in run.data.sources:
        if source.packed.tokens.instruct and run.settings.loss_on == "response":
            raise UsageError(
                f"the stage pt learns every token, not only the answers of {source.corpus.name}",
                str(source.corpus.path),
                "add --loss-on all, or use --to axolotl",
            )
    if run.settings.packing == "whole":
        raise UsageError(
            "the stage pt cuts documents at a row's end", "--packing whole", "leave it out, or use --to axolotl"
        )


def _datasets(run: ToExport, sources: Sequence[Source]) -> tuple[dict[str, Any], dict[str, Callable[[Path], None]]]:
    """dataset_info.json, and the corpora that have to be written. In stage pt the column `prompt` is the text."""
    info: dict[str, Any] = {}
    files: dict[str, Callable[[Path], None]] = {}
    for source in sources:
        corpus = source.corpus
        if "," in corpus.name:
            raise UsageError("a name with a comma is two data sets there", corpus.name, "name it: NAME=PATH")
        if (
            corpus.path.is_file()
            and corpus.path.suffix in (".jsonl", ".parquet")
            and not source.packed.tokens.instruct
        ):
            place, column = str(corpus.path.resolve()), corpus.text_field
        else:
            place, column = f"{corpus.name}.jsonl", "text"
            files[place] = partial(_write_texts, source=source, tokenizer=run.tokenizer)
        info[corpus.name] = {"file_name": place, "columns": {"prompt": column}}
    return info, files


def _mixture(sources: Sequence[Source]) -> dict[str, Any]:
    """Data sets are drawn document by document: shares of tokens become probabilities of documents."""
    if len(sources) == 1:
        return {}
    turns = [s.share * s.packed.tokens.num_documents / s.packed.tokens.num_tokens for s in sources]
    probabilities = ",".join(f"{t / sum(turns):.8f}" for t in turns)
    return {"mix_strategy": "interleave_over", "interleave_probs": probabilities}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_texts(path: Path, source: Source, tokenizer: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        for document in documents(source.corpus):
            text = render(document, tokenizer, answers=False).text
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def _notes(run: ToExport, sources: Sequence[Source]) -> list[str]:
    seq_len, tokenizer = run.shape.seq_len, run.tokenizer
    found = [
        f"of every 1000 documents the tokens that do not fill a row of {seq_len} are dropped",
        "the rows come in an order of its own",
    ]
    if run.settings.packing != "concat":
        found.insert(
            0,
            "the documents of a row see one another: stage pt has no packing with attention inside a document "
            "(neat_packing is refused for it)",
        )
    if tokenizer.bos_token is not None:
        found.insert(
            0,
            "where the tokenizer adds a start token (add_bos_token), the first token of every row is OVERWRITTEN by "
            f"it: 1 of {seq_len} tokens is lost (src/llamafactory/data/processor/pretrain.py)",
        )
    if specials(tokenizer).start:
        found.append("the documents have no start token of their own there")
    if tokenizer.eos_token is None:
        raise SurgeonError(
            "the stage pt puts the end token behind every text, and the tokenizer has none",
            str(run.ref.path),
            "use --to axolotl",
        )
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        found.append("the end token of a document is not learned: it serves as the padding, whose label is ignored")
    if len(sources) > 1:
        found.append("the shares of the corpora hold on average, `cpt` holds them at every step")
    for factor in dict.fromkeys(run.multipliers.values()):
        names = [n for n, f in run.multipliers.items() if f == factor]
        found.append(
            f"LLaMA-Factory has no learning rates by part: {len(names)} tensors, such as {names[0]}, are trained at "
            f"the plain learning rate instead of {factor:g} times it"
        )
    if run.settings.ranks > 1:
        found.append(f"the batch is {run.shape.rows} rows only on {run.settings.ranks} data-parallel ranks")
    found.append(
        "pipeline and context parallelism are set by fields of its Megatron backend "
        "(src/llamafactory/hparams/megatron_bridge_args.py), which this configuration leaves alone"
    )
    return found
