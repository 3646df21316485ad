"""What only a GPU can show of `cpt`: flash attention by lengths, half precision, no waiting, the same bytes again."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from surgeon.data.pack import IGNORED, Window
from surgeon.loading import load_model
from surgeon.train import attention, flash, linear_loss, segments
from surgeon.train.batch import Batch, collate
from surgeon.train.blocks import blocks_of
from surgeon.train.job import Job, prepare
from surgeon.train.linear_loss import linear_nats
from surgeon.train.loop import Loop
from surgeon.train.pace import Done, _Coming
from surgeon.train.run import CptResult, run_cpt
from surgeon.train.settings import CptSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CUDA = torch.device("cuda")
LENGTHS = ((70, 1, 57), (128,), (100, 28))
CYCLES = 3_000_000_000  # of a kernel that only waits: more than a second on any GPU


@pytest.fixture
def corpus(stories: Path, tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    held = (stories.parent / "domain.valid.jsonl").read_text().splitlines()[:40]
    path.write_text("\n".join(held) + "\n")
    return path


@pytest.fixture
def settings(stories: Path, corpus: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(stories), "out": str(tmp_path / "out"), "data": [f"texts={corpus}"], "tokens": 8192,
        "seq_len": 128, "batch_tokens": 1024, "micro_batch": 4, "lr": 1e-3, "device": "cuda", "compile": False,
    }  # fmt: skip


@pytest.fixture
def errors_on_waiting() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


def windows() -> list[Window]:
    rng, found = np.random.default_rng(0), []
    for lengths in LENGTHS:
        ids = rng.integers(3, 512, 128).astype(np.int32)
        ends = np.cumsum(lengths)
        labels = np.append(ids[1:], IGNORED).astype(np.int64)
        labels[ends - 1] = IGNORED
        found.append(Window(ids, labels, lengths, 128))
    return found


@torch.no_grad()
def alone(model: Any, batch: Batch) -> Tensor:
    """Every document in a call of its own, with transformers' eager attention."""
    name = model.config._attn_implementation
    model.set_attn_implementation("eager")
    parts = batch.ids.view(-1).split(list(batch.lengths))
    found = torch.cat([model(input_ids=p[None], use_cache=False).logits[0].float() for p in parts])
    model.set_attn_implementation(name)
    return found


def rows_trained(job: Job, name: str) -> None:
    """Let only every other row of a matrix move."""
    mask = torch.arange(job.trainable.parameters[name].shape[0], device=CUDA) % 2 == 0
    job.trainable.rows[name] = mask


def test_packed_logits_are_those_of_each_document_alone(stories: Path) -> None:
    """Naive concatenation is far beyond the bound."""
    model = load_model(stories, device=CUDA, dtype=torch.float32)
    batch = collate(windows(), CUDA)
    assert attention.choose(model, 128, CUDA, torch.bfloat16) == "segments"
    with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
        packed, labels = attention.logits(model, batch, "segments")
        reference = alone(model, batch)
        joined = Batch(batch.ids, batch.positions, batch.labels, (128, 128, 128))
        naive, _ = attention.logits(model, joined, "segments")
    bound = 2e-2 * float(reference.abs().max())
    assert packed.dtype == torch.bfloat16
    assert float((packed[0].float() - reference).abs().max()) <= bound
    assert float((naive[0].float() - reference).abs().max()) > 5 * bound
    assert torch.equal(labels.view(-1), batch.labels.view(-1))


@pytest.mark.parametrize("window", [None, 512])
@pytest.mark.parametrize("width", [64, 100])
def test_the_kernel_is_tried(width: int, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the heads that a model has. One that attends to what comes later is found out."""
    call = segments.Call(8, 2, width, width, None, window)
    assert segments.kernel_holds([call], CUDA, torch.bfloat16) == (width % 8 == 0)
    own = segments._varlen

    def looks_ahead(query: Tensor, *rest: Any, **given: Any) -> Tensor:
        return own(query.flip(2), *rest, **given)

    monkeypatch.setattr(segments, "_varlen", looks_ahead)
    assert not segments.kernel_holds([call], CUDA, torch.bfloat16)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_the_loss_in_the_head_is_that_of_the_logits(
    half: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_loss, "CHUNK_ELEMENTS", {"cuda": 300 * 5003})  # the third chunk is a shorter one
    torch.manual_seed(0)
    results = []
    labels = torch.randint(0, 5003, (777,), device=CUDA)
    labels[::5] = IGNORED
    start = torch.randn(777, 64, device=CUDA), torch.randn(5003, 64, device=CUDA) * 0.3
    for own in (True, False):
        hidden, weight = (t.clone().requires_grad_() for t in start)
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            loss = (
                linear_nats(hidden, weight, None, labels, compiled=compiled)
                if own
                else F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="sum")
            )
        loss.backward()
        assert hidden.grad is not None and weight.grad is not None
        assert weight.grad.dtype == torch.float32
        results.append((loss.detach(), hidden.grad, weight.grad))
    for mine, theirs, bound in zip(*results, (1e-5, 2e-2 if half else 1e-5, 2e-2 if half else 1e-5), strict=True):
        assert float((mine - theirs).abs().max()) <= bound * float(theirs.abs().max())


PROGRAM = """
import json, sys, torch
settings, stop, kernel = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if kernel == "None":
    sys.modules["flash_attn_interface"] = None  # as if it were not installed
torch.use_deterministic_algorithms(True)
from surgeon.train import flash
from surgeon.train.loop import Loop
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings
step = Loop._step
def broken(self, number, windows):
    assert str(flash.chosen()) == kernel
    if number == stop:
        raise KeyboardInterrupt
    return step(self, number, windows)
Loop._step = broken
try:
    run_cpt(CptSettings(**settings))
except KeyboardInterrupt:
    sys.exit(9)
"""


@pytest.mark.parametrize("kernel", ["None", flash.KERNEL])
def test_a_run_that_went_on_ends_with_the_same_bytes(settings: dict[str, Any], kernel: str, tmp_path: Path) -> None:
    """With torch's own kernel, and with flash-attention 3 where it is installed."""
    if kernel == flash.KERNEL and importlib.util.find_spec(flash.PACKAGE) is None:
        pytest.skip(f"{flash.PACKAGE} is not installed")
    env = dict(os.environ) | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    digests = []
    for name, stops in (("whole", (0,)), ("broken", (6, 0))):
        given = settings | {"out": str(tmp_path / name), "save_every": 2, "resume": True}
        for stop in stops:
            words = [sys.executable, "-c", PROGRAM, json.dumps(given), str(stop), kernel]
            run = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
            assert run.returncode == (9 if stop else 0), run.stderr
        digests.append(hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.usefixtures("errors_on_waiting")
def test_a_step_does_not_wait_for_the_device(settings: dict[str, Any], rows: bool) -> None:
    """torch raises where its own code would wait. A copy from memory that is not pinned waits in the driver, where
    torch does not see it: so the device is kept busy, and the step must be begun before it is free. Of one block, in
    one micro-batch: the driver takes a thousand kernels, and waits with the next."""
    job = prepare(CptSettings(**(settings | {"batch_tokens": 512})))
    if rows:
        rows_trained(job, "model.embed_tokens.weight")
    loop = Loop(job)
    del blocks_of(job.model)[1:]
    batches = [job.data.mixture.batch(step) for step in range(5)]
    for step in range(3):
        loop._step(step + 1, batches[step])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    loop._step(4, batches[3])
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    busy = torch.cuda.Event()
    torch.cuda._sleep(CYCLES)
    busy.record()
    loop._step(5, batches[4])
    assert not busy.query()
    torch.cuda.synchronize()


def test_numbers_of_a_step_are_there_before_the_next_one_is_done() -> None:
    """What lets the host stay one step ahead (`.item()` would wait for both)."""
    coming = _Coming(Done(1, 1, torch.full((), 2.5, device=CUDA), torch.full((), 0.5, device=CUDA), 0.0))
    torch.cuda._sleep(CYCLES)
    later = torch.cuda.Event()
    later.record()
    assert coming.numbers() == (2.5, 0.5)
    assert not later.query()
    torch.cuda.synchronize()


def test_products_are_in_half_precision_and_masters_are_not(settings: dict[str, Any]) -> None:
    job = prepare(CptSettings(**settings))
    loop = Loop(job)
    seen: set[torch.dtype] = set()
    linear = job.model.get_submodule("model.layers.0.mlp.up_proj")
    linear.register_forward_hook(lambda _module, _inputs, output: seen.add(output.dtype))
    before = {name: p.detach().clone() for name, p in job.trainable.parameters.items()}
    loop._step(1, job.data.mixture.batch(0))
    assert seen == {torch.bfloat16}
    for name, parameter in job.trainable.parameters.items():
        assert parameter.dtype == torch.float32
        assert all(loop.optimizer.state[parameter][m].dtype == torch.float32 for m in ("exp_avg", "exp_avg_sq"))
        assert not torch.equal(parameter, before[name])
    moved = job.trainable.parameters["model.embed_tokens.weight"].detach()
    assert not torch.equal(moved, moved.bfloat16().float())


def test_compiled_blocks_learn_the_same_and_are_compiled_twice_at_most(settings: dict[str, Any], corpus: Path) -> None:
    """Blocks once for the first lengths and once for all others, whatever is evaluated in between; the loss once."""
    from torch._dynamo.utils import counters

    def run(name: str, compiled: bool) -> CptResult:
        more = {"out": f"{settings['out']}-{name}", "compile": compiled, "eval": [f"texts={corpus}"], "eval_every": 3}
        return run_cpt(CptSettings(**(settings | more)))

    torch._dynamo.reset()
    counters.clear()
    compiled, plain = run("compiled", True), run("plain", False)
    assert 2 <= counters["stats"]["unique_graphs"] <= 3
    assert not counters["graph_break"]
    assert compiled.mfu is not None and compiled.mfu > 0
    for one, other in zip(compiled.eval, plain.eval, strict=True):
        assert one["nats_per_token"] == pytest.approx(other["nats_per_token"], rel=1e-2)
