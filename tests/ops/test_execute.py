"""The executor on real files: bytes copied, rows put together, values computed with one rounding, any thread count."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import warm
from blake3 import blake3

from surgeon.checkpoint.header import StoredTensor
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage, read_lineage
from surgeon.checkpoint.reader import read
from surgeon.checkpoint.sidecars import sidecars
from surgeon.errors import SurgeonError
from surgeon.ops.check import check, check_inputs
from surgeon.ops.execute import execute
from surgeon.ops.plan import Apply, Copy, Input, OutTensor, Piece, Plan, Rows, Zeros, dump_plan, from_json, runs

EMBED = "model.embed_tokens.weight"
NARROW = "model.layers.0.self_attn.q_proj.weight"


def plan_of(model: Path, **changes: OutTensor) -> Plan:
    """A plan that copies every tensor of the model, but for the changed ones."""
    checkpoint = Checkpoint.open(model)
    tensors = [
        changes.get(s.name, OutTensor(s.name, s.dtype, s.shape, Copy("model", s.name)))
        for s in checkpoint.tensors.values()
    ]
    return Plan(
        operation="test",
        settings={},
        seed=0,
        inputs=(Input("model", model, checkpoint.digest),),
        tensors=tuple(tensors),
        config=checkpoint.config,
        lineage=Lineage(operation="test", kind="surgery"),
        carried=dict.fromkeys(sidecars(model), "model"),
    )


def changed(stored: StoredTensor, source: object) -> dict[str, OutTensor]:
    return {stored.name: OutTensor(stored.name, stored.dtype, stored.shape, source)}  # type: ignore[arg-type]


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_copying_everything_gives_the_same_tensors_and_loads(stories: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = bytes_of(stories)
    report = execute(plan_of(stories), tmp_path / "out")
    assert bytes_of(stories) == before
    old, new = Checkpoint.open(stories), Checkpoint.open(tmp_path / "out")
    assert all(torch.equal(read(new.tensor(n)), read(t)) for n, t in old.tensors.items())
    assert report.tensors == len(old.tensors) and report.parameters == 260_032
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("Once upon a time").input_ids


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 300_000])
def test_same_bytes_for_any_number_of_threads(stories: Path, tmp_path: Path, shard_bytes: int) -> None:
    stored = Checkpoint.open(stories).tensors
    shape = stored[EMBED].shape
    rows = Rows(
        (
            Piece(((0, 3), (5, shape[0])), Copy("model", EMBED)),
            Piece(((3, 5),), Apply("kernel:constant", (), {"value": 0.1})),
        )
    )
    gate = stored["model.layers.0.mlp.gate_proj.weight"]
    plan = plan_of(stories, **changed(stored[EMBED], rows), **changed(gate, Zeros()))
    plan = replace(plan, shard_bytes=shard_bytes)
    for threads in (1, 2, 5):
        execute(plan, tmp_path / str(threads), threads=threads)
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2") == bytes_of(tmp_path / "5")
    out = Checkpoint.open(tmp_path / "5")
    assert len(out.shards) == (1 if shard_bytes > 1_000_000 else 4)
    embed, old = read(out.tensor(EMBED)), read(stored[EMBED])
    assert torch.equal(embed[:3], old[:3]) and torch.equal(embed[5:], old[5:])
    assert torch.equal(embed[3:5], torch.full((2, 64), 0.1, dtype=torch.float64).float())
    assert not read(out.tensor(gate.name)).any()


def test_lineage_names_parents_and_files(stories: Path, tmp_path: Path) -> None:
    plan = plan_of(stories)
    execute(plan, tmp_path / "a")
    execute(plan_of(tmp_path / "a"), tmp_path / "b")
    lineage = read_lineage(tmp_path / "b")
    assert lineage is not None
    assert [step.operation for step in lineage.chain()] == ["test", "test"]
    parent = lineage.parents[0]
    assert parent.path == "../a" and parent.digest == Checkpoint.open(tmp_path / "a").digest
    assert parent.lineage is not None and parent.lineage.parents[0].digest == Checkpoint.open(stories).digest
    assert parent.lineage.plan == plan.digest
    written = sorted(p for p in (tmp_path / "b").iterdir() if p.name not in ("surgeon.json", "README.md"))
    assert "config.json" in lineage.files and "model.safetensors" in lineage.files
    digests = {p.name: "sha256:" + hashlib.sha256(p.read_bytes()).hexdigest() for p in written}
    digests["model.safetensors"] = plain_tree(tmp_path / "b" / "model.safetensors")
    assert lineage.files == digests


def plain_tree(path: Path) -> str:
    """The digest of a file of weights as it is described, for tensors of at most one piece."""
    raw = path.read_bytes()
    data = 8 + int.from_bytes(raw[:8], "little")
    spans = sorted(e["data_offsets"] for n, e in json.loads(raw[8:data]).items() if n != "__metadata__")
    pieces = [blake3(raw[data + begin : data + end]).digest() for begin, end in spans]
    whole = [
        b"surgeon tree of weights 2\n",
        blake3(raw[:data]).digest(),
        *(blake3(p).digest() for p in pieces),
    ]
    return "tree-blake3:" + blake3(b"".join(whole)).hexdigest()


def test_a_saved_plan_is_the_same_plan(stories: Path, tmp_path: Path) -> None:
    plan = replace(plan_of(stories), attachments={"x.safetensors": b"\x00\xff"}, binary={"tokenizer.model": b"\x80"})
    again = from_json(json.loads(dump_plan(plan)))
    assert again == plan and again.digest == plan.digest
    assert replace(again, seed=1).digest != plan.digest
    moved = replace(plan, inputs=(replace(plan.inputs[0], path=tmp_path),))
    assert moved.digest == plan.digest


def test_a_saved_plan_refuses_other_inputs(stories: Path, tmp_path: Path) -> None:
    execute(plan_of(stories), tmp_path / "a")
    plan = plan_of(tmp_path / "a")
    check_inputs(plan)
    config = tmp_path / "a" / "config.json"
    config.write_text(config.read_text().replace("1e-05", "1e-06"))
    with pytest.raises(SurgeonError, match="not the one"):
        check_inputs(plan)


def test_what_does_not_fit_is_refused_before_writing(stories: Path, tmp_path: Path) -> None:
    stored = Checkpoint.open(stories).tensors
    norm = stored["model.norm.weight"]
    wrong = [
        changed(stored[EMBED], Copy("model", "model.norm.weight")),
        changed(norm, Copy("model", "absent")),
        changed(norm, Copy("other", norm.name)),
        changed(norm, Apply("kernel:absent", (Copy("model", norm.name),))),
        changed(stored[EMBED], Apply("kernel:subtract", (Copy("model", EMBED), Copy("model", NARROW)))),  # 64 rows
        changed(stored[EMBED], Rows((Piece(((0, 500),), Copy("model", EMBED)),))),
        changed(stored[EMBED], Rows((Piece(((0, 512),), Zeros()), Piece(((7, 8),), Zeros())))),
    ]
    for change in wrong:
        with pytest.raises(SurgeonError):
            check(plan_of(stories, **change))
        with pytest.raises(SurgeonError):
            execute(plan_of(stories, **change), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    doubled = plan_of(stories)
    with pytest.raises(SurgeonError, match="twice"):
        check(replace(doubled, tensors=(*doubled.tensors, doubled.tensors[0])))
    config = dict(doubled.config) | {"num_hidden_layers": 6}
    with pytest.raises(SurgeonError):
        check(replace(doubled, config=config))


def test_a_full_disk_is_three_lines_and_leaves_nothing(stories: Path, tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the write fails in the middle of a shard."""
    plan_path = tmp_path / "plan.json"
    plan_path.write_text(dump_plan(plan_of(stories)))
    script = """
import json, resource, signal, sys
from pathlib import Path
from surgeon.errors import SurgeonError
from surgeon.ops.execute import execute
from surgeon.ops.plan import from_json
plan = from_json(json.loads(Path(sys.argv[1]).read_text()))
import surgeon.arch.meta, transformers  # before the limit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    execute(plan, Path(sys.argv[2]))
except SurgeonError as error:
    print(error.problem)
"""
    out = tmp_path / "deep" / "out"
    run = warm.run(["-c", script, str(plan_path), str(out)])
    assert "the disk is full" in run.stdout, run.stderr
    assert list(out.parent.iterdir()) == []


def test_memory_stays_bounded_while_copying(tmp_path: Path) -> None:
    """A 200 MB tensor is copied without 200 MB of memory (measured in a process of its own)."""
    script = """
import sys
from pathlib import Path
from surgeon.ops.memory import peak_rss_bytes
from surgeon.checkpoint.header import encode_header, read_header
from surgeon.checkpoint.writer import Writer, lay_out
path = Path(sys.argv[1])
header = encode_header([("big", "F32", (50_000_000,))], {})
with open(path / "in.safetensors", "wb") as f:
    f.write(header); f.truncate(len(header) + 200_000_000)
stored = read_header(path / "in.safetensors")[0]["big"]
writer = Writer(path, lay_out([("big", "F32", (50_000_000,))], 10**12))
writer.copy("big", stored)
writer.finish()
print(peak_rss_bytes())
"""
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 150_000_000
    assert (tmp_path / "model.safetensors").stat().st_size > 200_000_000


def test_runs() -> None:
    assert runs([3, 4, 5, 9]) == ((3, 6), (9, 10)) and runs([]) == ()
