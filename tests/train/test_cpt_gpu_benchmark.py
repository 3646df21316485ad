"""The benchmark of `cpt` on a GPU has the models it names, says when it cannot run, and runs in its tiny mode."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from surgeon.registry import get
from surgeon.train.flops import flops_per_token
from surgeon.train.footprint import memory_bytes
from surgeon.train.parallel import SOLO
from surgeon.train.trainable import select

FOLDER = Path(__file__).resolve().parent.parent.parent / "benchmarks"
SCRIPT = FOLDER / "cpt_gpu.py"
DEEP = "llama-3.2-1b-20-blocks"


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(FOLDER))
    try:
        import cpt_gpu
    finally:
        sys.path.remove(str(FOLDER))
    return cpt_gpu


def meta_model(script: Any, name: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(script.MODELS[name])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return model


# parameters: of the published checkpoints (their safetensors headers); FLOPs: 6 N + 12 L n_h d_h s, by hand
@pytest.mark.parametrize(
    ("name", "parameters", "flops"),
    [
        ("qwen2.5-0.5b", 494_032_768, 4.02e9),
        ("llama-3.2-1b", 1_235_814_400, 9.03e9),
        ("qwen2.5-1.5b", 1_543_714_304, 11.38e9),
    ],
)
def test_shapes_are_those_of_the_models(script: Any, name: str, parameters: int, flops: float) -> None:
    model = meta_model(script, name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert flops_per_token(model, select(model, "full", None), 4096) == pytest.approx(flops, rel=1e-3)


RESULTS = ("cpt_gpu.json", "cpt_gpu-fa2.json", "cpt_gpu-compiled.json")
MEASURED = [json.loads((FOLDER / "results" / name).read_text()) for name in RESULTS]
MEMORY = [
    (name, way, result["sizes"], values["memory_bytes"])
    for result in MEASURED
    for name, of in result["models"].items()
    for way, values in of["median"].items()
    if way.startswith("surgeon")
]


@pytest.mark.parametrize(("name", "way", "sizes", "taken"), MEMORY)
def test_the_estimate_of_memory_is_what_a_gpu_took(
    script: Any, name: str, way: str, sizes: dict[str, int], taken: int
) -> None:
    """Within 10 %, by the results of the benchmark; a run of which some blocks between frozen ones are trained holds
    less of those than is estimated, up to a quarter."""
    model = meta_model(script, name)
    trainable = select(model, script.ways(name)[way].get("train", "full"), None)
    shape = SimpleNamespace(micro_batch=sizes["micro"], seq_len=sizes["seq_len"])
    chosen = {"objective": [(get("objective", "next_token"), {})], "optimizer": [(get("optimizer", "adamw"), {})]}
    job = SimpleNamespace(
        model=model, trainable=trainable, shape=shape, chosen=chosen | {"regularizer": [], "meta": []}, other=None,
        world=SOLO, device=torch.device("cuda"), dtype=torch.bfloat16, compiles=True,
    )  # fmt: skip
    found = memory_bytes(job)["total"] / taken
    assert 0.9 <= found <= (1.25 if "spread" in way else 1.1)


def test_new_blocks_are_four_of_twenty(script: Any) -> None:
    for way, blocks in (("surgeon 4 spread", {4, 9, 14, 19}), ("surgeon upper 4", {16, 17, 18, 19})):
        model = meta_model(script, DEEP)
        chosen = select(model, script.ways(DEEP)[way]["train"], None)
        assert {int(n.split(".")[2]) for n in chosen.parameters} == blocks
        assert chosen.lowest_block == min(blocks)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would run")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "there is no CUDA device" in run.stderr


def test_warm_up_steps_are_not_counted(script: Any, tmp_path: Path) -> None:
    lines = [
        {"step": n + 1, "tokens": 100 * (n + 1), "tokens_per_second": speed, "memory_bytes": 7, "loss": 6.0}
        for n, speed in enumerate((1.0, 2.0, 100.0, 50.0))
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert script.of_lines(path, 2, 4) == {"tokens_per_s": 200 / 3, "memory_bytes": 7}
    path.write_text(path.read_text().replace("6.0", "0.0"))
    with pytest.raises(SystemExit, match="the texts are not what they should be"):
        script.of_lines(path, 2, 4)


def test_a_process_that_takes_too_long_is_ended(script: Any) -> None:
    started = time.monotonic()
    found = script.until([sys.executable, "-c", "import time; time.sleep(60)"], {}, None, 1, 1.0)
    assert found == (1, "", "longer than 1 s") and time.monotonic() - started < 30


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "ways"),
    [
        ("qwen2.5-0.5b", {"surgeon", "surgeon FA2", "surgeon concat", "surgeon eager", "Trainer"}),
        (DEEP, {"surgeon all", "surgeon 4 spread", "surgeon upper 4"}),
    ],
)
def test_it_runs_with_tiny_shapes(model: str, ways: set[str], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ["--tiny", "--models", model, "--steps", "2", "--warm", "1", "--dir", str(tmp_path), "--out", str(out)]
    subprocess.run([sys.executable, str(SCRIPT), *words], check=True, capture_output=True)
    found = json.loads(out.read_text())["models"][model]
    assert set(found["rounds"]) == ways == set(found["median"])
    for values in found["median"].values():
        assert values["tokens_per_s"] > 0 and values["micro_batch"] == 4
    assert not list(tmp_path.glob("surgeon-bench-*"))
