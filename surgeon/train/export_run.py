"""`cpt export`: a training run as the configuration of another trainer, in a folder."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from surgeon.adapters.base_check import check_base
from surgeon.adapters.peft_format import open_adapter
from surgeon.adapters.refusals import check_adapter
from surgeon.checkpoint.commit import check_apart, check_out, staged
from surgeon.checkpoint.digest import json_digest
from surgeon.checkpoint.index import ADAPTER_CONFIG, Checkpoint
from surgeon.errors import SurgeonError
from surgeon.loading import context_length, load_skeleton, load_tokenizer
from surgeon.model_ref import resolve
from surgeon.ops.memory import peak_rss_bytes
from surgeon.ops.result import Result
from surgeon.progress import SILENT, Progress
from surgeon.registry import get
from surgeon.train import corpora
from surgeon.train.early import check_words
from surgeon.train.export_settings import ExportSettings
from surgeon.train.exported import Exported, ToExport
from surgeon.train.groups import is_matrix
from surgeon.train.settings import methods
from surgeon.train.shape import resolve_shape
from surgeon.train.trainable import Trainable, added_rows, check_trained_adapter, select

OPERATION = "cpt export"
NOTES = "NOTES.md"


def describe_export(settings: ExportSettings) -> dict[str, Any]:
    """What would be written: the configuration, the files beside it, the notes. Reads the inputs, writes nothing."""
    run, exported, inputs = _export(settings)
    return {
        "operation": OPERATION,
        "out": settings.out,
        **_found(run, exported),
        "config": exported.config,
        "inputs": inputs,
        "plan_digest": json_digest(_record(settings, inputs)),
    }


def run_export(
    settings: ExportSettings, progress: Progress = SILENT, *, force: bool = False,
    inputs: Mapping[str, Any] | None = None,
) -> Result:  # fmt: skip
    """Write the folder OUT: the trainer's YAML, what it needs beside it, NOTES.md. Everything there, or nothing.

    The model's weights are not read, so it may be larger than the memory. inputs: digests that a saved plan holds.
    Raises SurgeonError on what the trainer cannot do.
    """
    started = time.perf_counter()
    check_out(settings.out_path, force)
    progress.say("reading the model's configuration and the corpora")
    run, exported, held = _export(settings)
    changed = [key for key in inputs or {} if held.get(key) != (inputs or {})[key]]
    if changed:
        raise SurgeonError(
            f"the inputs are no longer those that the plan was made for: {', '.join(changed)}",
            settings.out,
            "plan again with --plan",
        )
    with staged(settings.out_path, force) as folder:
        for name, write in exported.files.items():
            progress.say(f"writing {name}")
            write(folder / name)
        (folder / exported.name).write_text(_yaml(exported), encoding="utf-8")
        (folder / NOTES).write_text(_notes(settings, exported), encoding="utf-8")
        same = yaml.safe_load((folder / exported.name).read_text(encoding="utf-8")) == exported.config
        if not same:
            raise SurgeonError("the YAML does not read back as it was", exported.name, "report this as a bug")
        nbytes = sum(p.stat().st_size for p in folder.iterdir())
    return Result(
        out=str(settings.out_path),
        operation=OPERATION,
        tensors=0,
        parameters=0,
        bytes_written=nbytes,
        seconds=round(time.perf_counter() - started, 3),
        peak_rss_bytes=peak_rss_bytes(),
        plan_digest=json_digest(_record(settings, held)),
        verified={"yaml": same},
        found=_found(run, exported),
    )


def _found(run: ToExport, exported: Exported) -> dict[str, Any]:
    shape = run.shape
    return {
        "to": run.settings.to,
        "files": [exported.name, *exported.files, NOTES],
        "command": f"cd {shlex.quote(run.settings.out)} && {exported.command}",
        "steps": shape.steps,
        "tokens": shape.steps * shape.rows * shape.seq_len,
        "trained_tensors": len(open_adapter(run.adapter).tensors if run.adapter else run.trained),
        "data": run.data.as_json(shape.steps),
        "notes": exported.notes,
    }


def _export(settings: ExportSettings) -> tuple[ToExport, Exported, dict[str, Any]]:
    """The run, what the exporter makes of it, and the digests of what was read."""
    method = get("exporter", settings.to)
    options = method.bind(settings.option_to)  # a wrong option is refused before anything is read
    run, inputs = _read(settings)
    exported: Exported = method.call({"run": run}, options)
    return run, exported, inputs


def _read(settings: ExportSettings) -> tuple[ToExport, dict[str, Any]]:
    check_words(settings)
    chosen = methods(settings)
    ref = resolve(settings.model)
    checkpoint = Checkpoint.open_model(ref.path)
    adapter = ref.adapter.path if ref.adapter else None
    check_trained_adapter(settings.train, adapter)
    _check_apart(settings, [ref.path, *([adapter] if adapter else [])])
    config = _adapter_config(adapter, checkpoint)
    tokenizer = load_tokenizer(ref.path, settings.trust_remote_code)
    model = load_skeleton(ref.path, settings.trust_remote_code)
    # sizes are those of a GPU: nobody exports a run to train it on a CPU
    shape = resolve_shape(settings, context_length(model), torch.device("cuda"))
    vocab = model.get_input_embeddings().weight.shape[0]
    data = corpora.read(settings, tokenizer, shape, vocab)
    held = Trainable({}) if adapter else select(model, settings.train, checkpoint.lineage, settings.group)
    plain = {} if adapter else select(model, settings.train, checkpoint.lineage).multipliers
    ids = tuple(added_rows(checkpoint.lineage)) if held.rows else ()
    named = dict(model.named_parameters())
    run = ToExport(
        settings=settings,
        ref=ref,
        shape=shape,
        data=data,
        tokenizer=tokenizer,
        depth=model.config.get_text_config().num_hidden_layers,
        names=tuple(named),
        trained=tuple(held.parameters),
        rows=dict.fromkeys(held.rows, ids),
        multipliers=held.multipliers,
        decays=held.decays,
        grouped=frozenset(n for n, f in held.multipliers.items() if plain.get(n, 1.0) != f),
        vectors=frozenset(n for n, p in named.items() if not is_matrix(n, p)),
        decayed=_decayed(model),
        adapter=adapter,
        adapter_config=config,
        chosen=chosen,
        dtype="float32" if settings.dtype == "float32" else "bfloat16",
    )
    digests: dict[str, Any] = {"model": checkpoint.digest}
    if adapter is not None:
        digests["adapter"] = open_adapter(adapter).digest
    for key, replay in (("data", False), ("replay", True)):
        digests[key] = [
            {"name": s.corpus.name, "weight": s.corpus.weight, "digest": s.digest}
            for s in data.sources
            if s.replay is replay
        ]
    return run, digests


def _adapter_config(adapter: Path | None, base: Checkpoint) -> Mapping[str, Any]:
    if adapter is None:
        return {}
    config = open_adapter(adapter).config
    check_adapter(config, str(adapter / ADAPTER_CONFIG))
    check_base(adapter, base)
    return config


def _decayed(model: Any) -> frozenset[str]:
    """The names that transformers' Trainer decays, by its own rule (which looks at nothing but the model)."""
    from transformers import Trainer

    return frozenset(Trainer.get_decay_parameter_names(None, model))


def _check_apart(settings: ExportSettings, models: list[Path]) -> None:
    """No output (with --force) over a model or a corpus that is read."""
    check_apart(settings.out_path, models)
    for corpus, _ in corpora.corpora(settings):
        if corpus.path.resolve().is_relative_to(settings.out_path.resolve()):
            raise SurgeonError(
                "the output holds a corpus that is read", f"{settings.out} and {corpus.path}", "choose another path"
            )


def _record(settings: ExportSettings, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return settings.deciding() | dict(inputs)


def _yaml(exported: Exported) -> str:
    text = yaml.safe_dump(exported.config, sort_keys=False, allow_unicode=True, width=1 << 20)
    return f"# written by `surgeon cpt export`; start it here with: {exported.command}\n" + text


def _notes(settings: ExportSettings, exported: Exported) -> str:
    lines = [f"- {note}" for note in exported.notes]
    return "\n".join(
        [f"# {settings.to}: what is not the same as `surgeon cpt`", "", *lines, "", f"Start: `{exported.command}`", ""]
    )
