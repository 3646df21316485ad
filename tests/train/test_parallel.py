"""Two processes that share the model give what one gives, to the rounding of sums."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchrun import in_several

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage, NewRow, RowMap, dump_lineage
from surgeon.checkpoint.reader import read
from surgeon.errors import SurgeonError
from surgeon.train import state
from surgeon.train.fork import find_fork
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

PROGRAM = Path(__file__).with_name("parallel_run.py")


def launch(options: dict[str, Any], processes: int = 2) -> subprocess.CompletedProcess[str]:
    return in_several(PROGRAM, json.dumps(options), processes=processes)


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in next((out / "surgeon").glob("metrics-*.jsonl")).read_text().splitlines()]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: read(t).double() for name, t in Checkpoint.open(folder).tensors.items()}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tied": ({"tie_word_embeddings": True}, {}),
    "untied": ({"tie_word_embeddings": False}, {"regularize": ["l2_to_base"]}),
    "a frozen part": ({"tie_word_embeddings": True}, {"train": r"layers\.[12]\.mlp", "group": ["down_proj:lr=0.5"]}),
    "moments in bfloat16": ({"tie_word_embeddings": True}, {"optimizer": "adamw_bf16"}),
    "rows that grow longer": ({"tie_word_embeddings": True}, {"lengths": "4:0.5,16:0.5"}),
    "new rows": ({"tie_word_embeddings": False}, {"train": "new-rows", "keep_checkpoints": 2, "save_every": 2}),
}
SHORT = ("tied", "new rows")


@pytest.mark.parametrize(
    "case", [*SHORT, *(pytest.param(name, marks=pytest.mark.long) for name in CASES if name not in SHORT)]
)
def test_two_processes_are_one(case: str, tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    changes, settings = CASES[case]
    model = tiny("llama", **changes)
    if case == "new rows":
        rows = [NewRow(id=i, token=f"t{i}", pieces=[5]) for i in (7, 40)]  # the second process holds none of them
        surgery = RowMap(old=2, rows=4, new=rows, method="m", method_output="m")
        extended = Lineage(operation="extend-vocab", kind="surgery", rows=surgery)
        (model / "surgeon.json").write_text(dump_lineage(extended))
    # 5 rows a step: the second process runs out of rows first
    options = {
        "model": str(model), "data": [str(corpus)], "tokens": 320, "seq_len": 16, "batch_tokens": 80, "micro_batch": 2,
        "lr": 1e-3, "device": "cpu", "eval": [f"own={corpus}"], **settings,
    }  # fmt: skip
    run_cpt(CptSettings(**options, out=str(tmp_path / "one")))
    done = launch(options | {"out": str(tmp_path / "two")})
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    for a, b in zip(one, two, strict=True):
        for key in ("loss", "grad_norm"):
            if key in a:
                assert b[key] == pytest.approx(a[key], rel=1e-5)
        assert a["tokens"] == b["tokens"] and len(a.get("eval", [])) == len(b.get("eval", []))
    told = [Checkpoint.open(tmp_path / name).lineage for name in ("one", "two")]
    counts = [lineage.training["trainable_parameters"] for lineage in told if lineage and lineage.training]
    assert len(counts) == 2 and counts[0] == counts[1]
    before, first, second = tensors(model), tensors(tmp_path / "one"), tensors(tmp_path / "two")
    moved = 0
    for name, value in first.items():
        if torch.equal(value, before[name]):
            assert torch.equal(second[name], before[name]), name
        else:
            moved += 1
            assert float((second[name] - value).abs().max()) <= 1e-5 * max(1.0, float(value.abs().max())), name
    assert moved


@pytest.mark.long
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("optimizer", ["osf:keep_ratio=0.4,protect=block", "osf", "coso:rank=3,sketch=5,every=2"])
def test_directions_are_kept_in_two_processes_as_in_one(
    family: str, optimizer: str, tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    """Of experts, each process has some; of a matrix, rows; of the history of coso, rows as well."""
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24} if "moe" in family else {}
    model, history = tiny(family, **sizes), tmp_path / "history.safetensors"
    options = {
        "model": str(model), "data": [str(corpus)], "tokens": 320, "seq_len": 16, "batch_tokens": 80, "micro_batch": 2,
        "lr": 1e-3, "device": "cpu", "weight_decay": 0.5,
    }  # fmt: skip
    if optimizer.startswith("coso"):
        options["train"] = "self_attn"
        drawn = torch.Generator().manual_seed(0)
        kept = {n: t for n, t in tensors(model).items() if n.endswith("q_proj.weight")}
        bases = {
            n: torch.linalg.qr(torch.randn(t.shape[0], 3, generator=drawn))[0].contiguous() for n, t in kept.items()
        }
        save_file(bases, history)
        optimizer += f",history={history}"
    run_cpt(CptSettings(**options, optimizer=optimizer, out=str(tmp_path / "one")))
    done = launch(options | {"optimizer": optimizer, "out": str(tmp_path / "two")})
    assert done.returncode == 0, done.stderr[-3000:]
    before, one, two = tensors(model), tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert any(not torch.equal(one[n], t) for n, t in before.items() if t.ndim == 2 and "layers" in n)
    for name, value in one.items():
        assert float((two[name] - value).abs().max()) <= 1e-5 * max(1.0, float(value.abs().max())), name


@pytest.mark.parametrize(("first", "second"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.long)])
def test_a_state_goes_on_with_any_number_of_processes(
    first: int, second: int, tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    model = tiny("llama", tie_word_embeddings=True)
    options = {
        "model": str(model), "data": [str(corpus)], "tokens": 256, "seq_len": 16, "batch_tokens": 64, "micro_batch": 2,
        "lr": 1e-3, "device": "cpu", "save_every": 1, "keep_states": 9, "keep_state": True,
    }  # fmt: skip
    for name, processes in (("whole", first), ("more", second)):
        if name == "more":
            shutil.copytree(tmp_path / "whole.run", tmp_path / "more.run")
            for later in (tmp_path / "more.run" / "state").glob("step-*.pt"):
                if later.name > "step-00000002.pt":
                    later.unlink()
            options["resume"] = True
        done = launch(options | {"out": str(tmp_path / name)}, processes)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = tensors(tmp_path / "whole"), tensors(tmp_path / "more")
    for name, value in one.items():
        assert float((two[name] - value).abs().max()) <= 1e-5 * max(1.0, float(value.abs().max())), name


@pytest.mark.parametrize(
    "meta",
    [
        pytest.param([], marks=pytest.mark.long),
        ["reptile:every=4,eps=0.3", "decoupled:every=2,batches=2,rows=2,probe={}"],
    ],
)
def test_resumed_by_two_processes_is_the_same_bytes(
    meta: list[str], tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    """From the second of three saved states, in the middle of a window of Reptile's."""
    options: dict[str, Any] = {
        "model": str(tiny("llama", tie_word_embeddings=True)), "data": [str(corpus)], "tokens": 640, "seq_len": 16,
        "batch_tokens": 80, "micro_batch": 2, "lr": 1e-2, "device": "cpu", "save_every": 3, "keep_states": 3,
        "keep_state": True, "meta": [word.format(corpus) for word in meta],
    }  # fmt: skip
    out = tmp_path / "out"
    done = launch(options | {"out": str(out)})
    assert out.is_dir(), done.stderr[-3000:]
    whole = out.rename(tmp_path / "whole")
    states = sorted((tmp_path / "out.run" / "state").glob("*.pt"))
    assert [s.name for s in states] == ["step-00000003.pt", "step-00000006.pt", "step-00000008.pt"]
    for path in states:  # each process wrote its part, in files that hold plain data
        parts = sorted(path.with_suffix(".shards").iterdir())
        assert len(parts) == 2 and all(p.suffix == ".safetensors" for p in parts)
        assert path.stat().st_size < sum(p.stat().st_size for p in parts)
    states[2].unlink()
    torn = states[2].with_suffix(".shards")  # as a process leaves them that is killed before the state has its name
    next(iter(sorted(torn.iterdir()))).write_bytes(b"torn")
    done = launch(options | {"out": str(out), "resume": True})
    assert out.is_dir(), done.stderr[-3000:]
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [
        {k: v for k, v in line.items() if k not in ("tokens_per_second", "memory_bytes")} for line in metrics(out)
    ] == [{k: v for k, v in line.items() if k not in ("tokens_per_second", "memory_bytes")} for line in metrics(whole)]


def test_a_state_of_two_processes_is_read_whole_or_refused(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {
        "model": str(tiny("llama", tie_word_embeddings=False)), "data": [str(corpus)], "tokens": 128, "seq_len": 16,
        "batch_tokens": 64, "micro_batch": 2, "lr": 1e-2, "device": "cpu", "save_every": 1, "keep_state": True,
        "out": str(out),
    }  # fmt: skip
    done = launch(options)
    assert out.is_dir(), done.stderr[-3000:]
    folder = tmp_path / "out.run" / "state"
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000002.pt", "step-00000002.shards"]  # the newest alone
    path = folder / "step-00000002.pt"
    held = state.load(path)
    assert held.shards is None and not state.load(path, tensors=False).parameters
    for name, value in tensors(out).items():
        assert torch.equal(held.parameters[name].double(), value)
    moments = held.optimizer["state"]
    assert len(moments) == len(held.parameters) and all(m["exp_avg"].dtype == torch.float32 for m in moments.values())
    assert {m["exp_avg"].shape for m in moments.values()} == {p.shape for p in held.parameters.values()}
    fork = find_fork(out)  # what an annealing begins with
    assert fork.state == path and fork.step == 2
    shutil.rmtree(out)
    parts = sorted((folder / "step-00000002.shards").iterdir())
    raw = parts[1].read_bytes()
    for damaged in (raw[:200], None):
        parts[1].unlink() if damaged is None else parts[1].write_bytes(damaged)
        with pytest.raises(SurgeonError, match="parts of the state are not all there"):
            run_cpt(CptSettings(**options, resume=True))
    flipped = raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:]  # in a tensor: safetensors holds no checksums
    for damaged in (b"\xff" * len(raw), flipped):
        parts[1].write_bytes(damaged)
        with pytest.raises(SurgeonError, match="parts of the state cannot be read") as refused:
            run_cpt(CptSettings(**options, resume=True))
        assert refused.value.hint == "start anew with --force"
    (folder / "step-00000001.pt").touch()  # an older one
    with pytest.raises(SurgeonError, match=r"remove step-00000002\.pt, and --resume goes on from step-00000001\.pt"):
        run_cpt(CptSettings(**options, resume=True))
    parts[1].write_bytes(raw)
    run_cpt(CptSettings(**options, resume=True))
    assert out.is_dir()


@pytest.mark.long
def test_two_processes_train_an_adapter_as_one(adapted: str, corpus: Path, tmp_path: Path) -> None:
    """PEFT's layers are there before the model is divided, so their gradients are summed like all others."""
    from safetensors.torch import load_file

    options = {
        "model": adapted, "data": [str(corpus)], "tokens": 320, "seq_len": 16, "batch_tokens": 80, "micro_batch": 2,
        "lr": 1e-3, "device": "cpu", "train": "adapter",
    }  # fmt: skip
    run_cpt(CptSettings(**options, out=str(tmp_path / "one")))
    done = launch(options | {"out": str(tmp_path / "two")})
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and any(bool(t.any()) for n, t in one.items() if "lora_B" in n)
    for name, value in one.items():
        assert float((two[name] - value).abs().max()) <= 1e-5 * max(1.0, float(value.abs().max())), name
