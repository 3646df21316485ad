"""A plan carried out in the folder of its only input: old shards get longer headers, new tensors get new shards."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from surgeon.card.front import CARD
from surgeon.card.write import card_in_place
from surgeon.checkpoint.commit import told_when_full
from surgeon.checkpoint.config_json import dump_json
from surgeon.checkpoint.digest import file_digests
from surgeon.checkpoint.header import PAGE, at_least, encode_header, header_bytes, num_bytes
from surgeon.checkpoint.index import CONFIG, INDEX, SINGLE, Checkpoint
from surgeon.checkpoint.insert_range import can_insert
from surgeon.checkpoint.journal import FILES, HEADERS, Journal, ShardChange, Step, begin, prepared, resume
from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage, dump_lineage
from surgeon.checkpoint.sidecars import METRICS_PREFIX, SURGEON_DIR
from surgeon.checkpoint.tree_digest import composed, weight_digests
from surgeon.checkpoint.writer import METADATA, Layout, shard_names
from surgeon.errors import SurgeonError
from surgeon.ops.check import check
from surgeon.ops.execute import lineage_of, measured, parameters, write_shards
from surgeon.ops.layout import index_metadata
from surgeon.ops.memory import peak_rss_bytes
from surgeon.ops.plan import Copy, Plan
from surgeon.ops.result import Result
from surgeon.progress import SILENT, Progress


def request_of(operation: str, settings: BaseModel) -> list[str]:
    """The operation and its options, as they are typed: what decides whether a command is the interrupted one again,
    and what a person is told to give once more."""
    words = [operation]
    for name, value in settings.model_dump(mode="json", exclude={"model", "out"}, exclude_defaults=True).items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif isinstance(value, list):
            words += [flag, ",".join(map(str, value))]
        elif isinstance(value, dict):
            for key, held in value.items():
                words += [flag, f"{key}={held if isinstance(held, str) else json.dumps(held)}"]
        else:
            words += [flag, str(value)]
    return words


def resume_in_place(folder: Path, request: Sequence[str]) -> dict[str, Any] | None:
    """Finish an interrupted change of the folder; None where there is none. Raises SurgeonError where it was another
    request that was interrupted."""
    with told_when_full(folder):
        if not resume(folder, request):
            return None
    return {"out": str(folder), "operation": request[0], "finished": "an interrupted change in place"}


def execute_in_place(
    plan: Plan, request: Sequence[str], *, threads: int | None = None, progress: Progress = SILENT,
    step: Step = lambda _: None,
) -> Result:  # fmt: skip
    """Carry out a plan whose kept tensors stay in their shards and in their order (see plan.shards). What has to be
    written is the new tensors, the headers that name others, and the small files; no byte of an old tensor moves.

    Refused where the file system cannot insert room into a file, where a shard has a second name (a change would be
    seen there too), or is a link. After a kill the checkpoint is the old or the new one, or is refused wherever it is
    opened, until the same request (see request_of) makes it the new one.
    """
    started = time.perf_counter()
    check(plan)
    source = plan.inputs[0]
    folder, inputs = source.path, {source.role: Checkpoint.open(source.path)}
    threads = threads or min(os.cpu_count() or 1, 8)
    with told_when_full(folder):
        _check_place(folder, inputs[source.role])
    with told_when_full(folder), prepared(folder) as stage:
        changes, fresh = _shards(plan, inputs[source.role], stage)
        names = [name for entry in fresh.shards for name, _, _ in entry[1]]
        added = replace(plan, tensors=tuple(t for t in plan.tensors if t.name in set(names)), shards=(), link=False)
        written = write_shards(added, stage / FILES, inputs, threads, progress, fresh)
        digests = _digests(plan, inputs[source.role], stage, changes, fresh)
        files = _small_files(plan, inputs, stage, changes, fresh)
        digests |= dict(zip(files, file_digests(stage / FILES / name for name in files), strict=True))
        metrics = f"{SURGEON_DIR}/{METRICS_PREFIX}"
        carried = [n for n in plan.carried if n not in digests and not n.startswith(metrics)]
        digests |= dict(zip(carried, file_digests(folder / n for n in carried), strict=True))
        lineage = lineage_of(plan, folder, inputs, dict(sorted(digests.items())))
        (stage / FILES / LINEAGE_FILE).write_text(dump_lineage(lineage), encoding="utf-8")
        aside = [INDEX] if (folder / INDEX).is_file() else []
        files += _card(plan, folder, lineage, stage, progress)
        new = [shard for shard, _ in fresh.shards]
        begin(folder, Journal(list(request), changes, [*new, *files, LINEAGE_FILE], aside), step)
    held = Checkpoint.open(folder)
    assert {n: t.shape for n, t in held.tensors.items()} == {t.name: t.shape for t in plan.tensors}
    return Result(
        out=str(folder),
        operation=plan.operation,
        tensors=len(plan.tensors),
        parameters=parameters(plan),
        bytes_written=sum(num_bytes(dtype, shape) for _, entries in fresh.shards for _, dtype, shape in entries),
        seconds=round(time.perf_counter() - started, 3),
        peak_rss_bytes=peak_rss_bytes(),
        plan_digest=plan.digest,
        verified={"reopened": True, "tensors": len(held.tensors), "in_place": [c.new for c in changes]},
        found=measured(plan) | written.measured(plan),
    )


def _check_place(folder: Path, checkpoint: Checkpoint) -> None:
    for shard in checkpoint.shards:
        if shard.is_symlink() or shard.stat().st_nlink > 1:
            raise SurgeonError(
                f"the shard {shard.name} is a link or has a second name: a change would be seen there too",
                str(shard),
                "copy the checkpoint, or expand to a new folder",
            )
    if not can_insert(folder):
        raise SurgeonError(
            "the file system cannot insert room into a file (ext4 and XFS can)",
            str(folder),
            "leave out --in-place, and give another output",
        )


def _shards(plan: Plan, checkpoint: Checkpoint, stage: Path) -> tuple[list[ShardChange], Layout]:
    """What happens to the old shards, and the layout of the new ones. Headers are written to the stage."""
    by_name = {t.name: t for t in plan.tensors}
    files = shard_names(len(plan.shards), SINGLE)
    changes: list[ShardChange] = []
    fresh: list[tuple[str, tuple[tuple[str, str, tuple[int, ...]], ...]]] = []
    for file, names in zip(files, plan.shards, strict=True):
        group = [by_name[name] for name in names]
        entries = tuple((t.name, t.dtype, t.shape) for t in group)
        origins = [checkpoint.tensors[t.source.tensor] for t in group if isinstance(t.source, Copy)]
        path = origins[0].path if origins else None
        held = sum(1 for t in checkpoint.tensors.values() if t.path == path)
        if path is None or len(changes) >= len(checkpoint.shards) or not _stays(origins, len(group), held):
            fresh.append((file, entries))
            continue
        old = header_bytes(path)
        new = encode_header(entries, METADATA, len(old))
        new = at_least(new, len(old))
        same = [t.name for t in group] == [o.name for o in origins]
        header = "" if same else f"{len(changes)}.bin"
        if header:
            (stage / HEADERS / header).write_bytes(new)
        grow = 0 if same else len(new) - len(old)
        assert grow % PAGE == 0
        changes.append(ShardChange(path.name, file, path.stat().st_size, grow, header))
    if len(changes) != len(checkpoint.shards):
        raise SurgeonError(
            "the old tensors do not stay in their shards", str(checkpoint.path), "leave out --in-place for this one"
        )
    own = {shard.name for shard in checkpoint.shards}
    for file in files:
        if file not in own and (checkpoint.path / file).exists():
            raise SurgeonError(
                f"{file} is there already and is not the checkpoint's", str(checkpoint.path), "move it elsewhere"
            )
    return changes, Layout(tuple(fresh))


def _stays(origins: list[Any], count: int, held: int) -> bool:
    """Whether these are all tensors of one file, in the order of their data."""
    starts = [o.start for o in origins]
    return len(origins) == count == held and len({o.path for o in origins}) == 1 and starts == sorted(starts)


def _card(plan: Plan, folder: Path, lineage: Lineage, stage: Path, progress: Progress) -> list[str]:
    """README.md in the stage, unless the one that lies there was written by somebody; gives its name."""
    text = card_in_place(folder, lineage, plan.config, {t.name: t for t in plan.tensors})
    if text is None:
        progress.say(f"{CARD} is not as it was made here, and stays as it is: it is of the model before")
        return []
    (stage / FILES / CARD).write_text(text, encoding="utf-8")
    return [CARD]


def _digests(
    plan: Plan, checkpoint: Checkpoint, stage: Path, changes: list[ShardChange], fresh: Layout
) -> dict[str, str]:
    """Of the shards as they will be: old tensors keep their digests, whatever they are called."""
    own = {name: digest for held in checkpoint.weight_digests for name, digest in held.tensors.items()}
    known = {t.name: own[t.source.tensor] for t in plan.tensors if isinstance(t.source, Copy)}
    found = {}
    for change, names in zip(changes, plan.shards, strict=False):
        stored = stage / HEADERS / change.header
        header = stored.read_bytes() if change.header else header_bytes(checkpoint.path / change.old)
        found[change.new] = composed(header, [known[name] for name in names])
    paths = [stage / FILES / shard for shard, _ in fresh.shards]
    return found | {p.name: d.digest for p, d in zip(paths, weight_digests(paths), strict=True)}


def _small_files(
    plan: Plan, inputs: Mapping[str, Checkpoint], stage: Path, changes: list[ShardChange], fresh: Layout
) -> list[str]:
    """config.json, the index and what else the plan writes, in the stage; gives their names."""
    texts = {CONFIG: dump_json(dict(plan.config))} | dict(plan.files)
    shards = dict(zip([c.new for c in changes], plan.shards, strict=False)) | {
        shard: tuple(name for name, _, _ in entries) for shard, entries in fresh.shards
    }
    if len(shards) > 1:
        weight_map = {name: shard for shard, names in shards.items() for name in names}
        metadata = index_metadata(plan, inputs) or {"total_size": plan.nbytes}
        index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
        texts[INDEX] = dump_json(index)
    for name, text in texts.items():
        (stage / FILES / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / FILES / name).write_text(text, encoding="utf-8")
    return list(texts)
