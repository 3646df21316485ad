"""Tokens a second of full-parameter continual pre-training on one GPU: `surgeon cpt` beside transformers.Trainer.

    python benchmarks/cpt_gpu.py --models qwen2.5-0.5b --out cpt_gpu-qwen2.5-0.5b.json
    python benchmarks/cpt_gpu.py --models llama-3.2-1b --out cpt_gpu-llama-3.2-1b.json
    python benchmarks/cpt_gpu.py --models qwen2.5-1.5b --out cpt_gpu-qwen2.5-1.5b.json
    python benchmarks/cpt_gpu.py --models llama-3.2-1b-20-blocks --out cpt_gpu-new-blocks.json

`--tiny` runs all of it but compiling on a CPU with tiny shapes, as tests/train/test_cpt_gpu_benchmark.py does; its
numbers mean nothing.

Random weights in the shapes of the models, written here; nothing is downloaded. Texts are of words that are tokens,
one each, drawn from nearly the whole vocabulary; documents have 32 to 16,384 tokens (log-normal, median 600). Rows of
4096 tokens, 16 a step, AdamW (fused), clipping at 1, products in bfloat16 (autocast), masters and moments in float32,
no activation is computed again. Every way runs in a process of its own, in an order drawn anew each round; where it
does not fit, its micro-batch is halved, and the result says so. The first --warm steps are not counted (compiling is
in them).

surgeon: its defaults on a GPU (blocks compiled, documents kept apart, which saves attention; flash-attention 3 where
flash_attn_interface is installed and the GPU is of its kind). FA2: with torch's own kernel. concat: attention through
whole rows: the work of Trainer. eager: --no-compile. Trainer: sdpa, its defaults otherwise; compile: torch_compile of
the whole model; regional: torch_compile with accelerate's regional compilation, block by block, as surgeon does it;
liger: use_liger_kernel, where liger-kernel is installed; parts: of Liger all but its loss. llama-3.2-1b-20-blocks: the
1B deepened to 20 blocks, of which all, 4 spread evenly (4, 9, 14, 19) or the upper 4 are trained; embeddings stand
still in the latter.

MFU: by surgeon.train.flops (attention without the causal half, as in PaLM, and through whole rows for every way) over
--peak (989 TFLOP/s, dense bfloat16 of an H100 and H200). Of a part that is trained, only what it needs counts.

What must be there: torch, transformers, peft, accelerate, typer, rich and what they need; and, which a GPU image may
not have, blake3, pydantic, pydantic_core, annotated_types and typing_inspection (13 MB): `pip install --target DIR
blake3 pydantic` for its Python, and DIR on PYTHONPATH with the repository. mergekit, scipy and matplotlib are not
needed, and no network. Disk: 20 bytes a parameter (31 GB for 1.5B).
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from cpt_gpu_models import MODELS, TINY
from cpt_gpu_programs import FLOPS, MAKE, TRAINER, WITHOUT
from cpt_gpu_ways import ways
from expand import machine

MORE = 3  # steps behind those that are read


def needs_compiler(way: dict[str, Any]) -> bool:
    return bool(way.get("compile") or way.get("liger"))


def surgeon(root: Path, own: Path, sizes: dict[str, Any], way: dict[str, Any]) -> list[str]:
    """The command; `own` / out.run / metrics.jsonl has a line a step. It asks for more steps than are read."""
    tokens = (sizes["steps"] + MORE) * sizes["rows"] * sizes["seq_len"]
    words = ["cpt", root / "model", own / "out", "--data", f"text={root / 'text.jsonl'}", "--tokens", tokens]
    words += ["--seq-len", sizes["seq_len"], "--batch-tokens", sizes["rows"] * sizes["seq_len"]]
    words += ["--micro-batch", sizes["micro"], "--train", way.get("train", "full"), "--schedule", "linear"]
    words += ["--checkpointing", "none", "--save-every", 10**6, "--keep-state", "--quiet"]
    words += ["--device", "cuda" if sizes["cuda"] else "cpu", *way.get("flags", ())]
    program = ["-c", WITHOUT, way["without"]] if "without" in way else ["-m", "surgeon"]
    return [sys.executable, *program, *map(str, words)]


def until(
    command: list[str], env: dict[str, str], lines: Path | None, steps: int, limit: float
) -> tuple[int, str, str]:
    """(exit status, output, errors) of a command; 0 as soon as `lines` has the steps: what is written behind them,
    20 bytes a parameter, is not what is measured. One that takes longer than `limit` seconds is ended."""
    ends = time.monotonic() + limit
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        run = subprocess.Popen(command, env=env, stdout=output, stderr=errors, text=True)
        while (status := run.poll()) is None:
            if lines and lines.is_file() and lines.read_text().count("\n") >= steps:
                run.kill()
                run.wait()
                status = 0
                break
            if time.monotonic() > ends:
                run.kill()
                run.wait()
                return 1, "", f"longer than {limit:.0f} s"
            time.sleep(0.05)
        output.seek(0), errors.seek(0)
        return status, output.read(), errors.read()


def of_lines(path: Path, warm: int, steps: int) -> dict[str, float]:
    """Tokens a second over the steps behind the warm-up up to `steps`, as `surgeon cpt` timed them: each step until
    its loss was there."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line for line in lines if warm <= line["step"] <= steps]
    counts = [b["tokens"] - a["tokens"] for a, b in itertools.pairwise(lines)]
    if lines[-1]["loss"] < 1:  # of random words: about the logarithm of their number
        raise SystemExit(f"{path}: a loss of {lines[-1]['loss']}: the texts are not what they should be")
    seconds = [n / line["tokens_per_second"] for n, line in zip(counts, lines[1:], strict=True)]
    return {"tokens_per_s": sum(counts) / sum(seconds), "memory_bytes": lines[-1]["memory_bytes"]}


def once(root: Path, sizes: dict[str, Any], way: dict[str, Any]) -> dict[str, Any] | str:
    """One run in a process of its own; "full" where the GPU's memory did not hold it, else why it failed."""
    env = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(root / "cache")}
    with tempfile.TemporaryDirectory(dir=root) as name:
        own = Path(name)
        if "compile" in way:
            given = sizes | way | {"out": str(own), "model": str(root / "model"), "ids": str(root / "ids.npy")}
            command, lines = [sys.executable, "-c", TRAINER, json.dumps(given)], None
        else:
            command, lines = surgeon(root, own, sizes, way), own / "out.run" / "metrics.jsonl"
        started = time.perf_counter()
        status, output, errors = until(command, env, lines, sizes["steps"], sizes["limit"])
        if status:
            full = "OutOfMemoryError" in errors or "out of memory" in errors
            return "full" if full else errors[-2000:]
        found = of_lines(lines, sizes["warm"], sizes["steps"]) if lines else json.loads(output.strip().split("\n")[-1])
        return found | {"process_s": time.perf_counter() - started}


def measured(root: Path, sizes: dict[str, Any], way: dict[str, Any]) -> dict[str, Any]:
    """With the largest micro-batch that fits, from that of `sizes` down by halves."""
    micro = sizes["micro"]
    while True:
        found = once(root, sizes | {"micro": micro}, way)
        if isinstance(found, dict):
            return found | {"micro_batch": micro}
        if found != "full" or micro == 1:
            return {"failed": found}
        micro //= 2


def make(root: Path, name: str, sizes: dict[str, Any], tiny: bool) -> dict[str, float]:
    """Writes a model and its texts; gives FLOPs of a token by what is trained."""
    root.mkdir()
    config = MODELS[name] | (TINY if tiny else {})
    tokens = ((sizes["steps"] + MORE) * sizes["rows"] + 1) * sizes["seq_len"]
    longest = 4 * sizes["seq_len"]
    _call([sys.executable, "-c", MAKE, str(root), json.dumps(config), str(tokens), str(longest)])
    parts = sorted({held.get("train", "full") for held in ways(name).values()})
    asked = [str(root / "model"), json.dumps(parts), str(sizes["seq_len"])]
    found: dict[str, float] = json.loads(_call([sys.executable, "-c", FLOPS, *asked]))
    return found


def compare(work: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result so far, after every way. All models are made before anything is timed, side by side."""
    result: dict[str, Any] = {"models": {}}
    seq_len, rows = (64, 4) if options.tiny else (4096, 16)
    sizes = {"seq_len": seq_len, "rows": rows, "micro": min(options.micro_batch, rows), "cuda": not options.tiny}
    sizes |= {"steps": options.warm + options.steps, "warm": options.warm, "limit": options.limit}
    names = options.models.split(",")
    with ThreadPoolExecutor(len(names)) as pool:
        made = dict(zip(names, pool.map(lambda n: make(work / n, n, sizes, options.tiny), names), strict=True))
    pairs = [(n, w) for n in names for w, held in ways(n).items() if not (options.tiny and needs_compiler(held))]
    if options.only:
        pairs = [(n, w) for w in options.only.split(",") for n in names if (n, w) in pairs]
    flops: dict[str, dict[str, float]] = {name: {} for name in names}
    rounds: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in names}
    for number in range(options.rounds):
        for name, way in pairs if options.only else random.Random(number).sample(pairs, len(pairs)):
            held = ways(name)[way]
            flops[name][way] = made[name][held.get("train", "full")]
            found = measured(work / name, sizes, held)
            if "failed" not in found:
                found["mfu"] = flops[name][way] * found["tokens_per_s"] / options.peak
            rounds[name].setdefault(way, []).append(found)
            print(name, way, found, file=sys.stderr, flush=True)
            of = {"flops_per_token": flops[name], "rounds": rounds[name]} | summary(rounds[name])
            result["models"][name] = of
            result["sizes"] = sizes
            yield result


def summary(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians by way, and the median over the rounds of the speed as a ratio to the first way's within a round."""
    middle: dict[str, dict[str, float]] = {}
    ratios: dict[str, float] = {}
    first = next((way for way in rounds if way in ("surgeon", "surgeon all")), next(iter(rounds)))
    for way, of in rounds.items():
        good = [found for found in of if "failed" not in found]
        if good:
            middle[way] = {key: median(found[key] for found in good) for key in good[0]}
        pairs = [
            a["tokens_per_s"] / b["tokens_per_s"]
            for a, b in zip(of, rounds[first], strict=False)
            if "failed" not in a and "failed" not in b
        ]
        if pairs and way != first:
            ratios[f"{way} / {first}"] = round(median(pairs), 3)
    return {"median": middle, "ratios": ratios}


def _call(command: list[str]) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr[-3000:])
    return run.stdout.strip().split("\n")[-1]


def gpu() -> str:
    """Its name; empty where there is none."""
    return _call(
        [sys.executable, "-c", "import torch as t; print(t.cuda.is_available() and t.cuda.get_device_name())"]
    )


def versions() -> dict[str, str | None]:
    """Of what decides the speed; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in ("torch", "transformers", "accelerate", "liger-kernel", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="By commas.")
    parser.add_argument("--only", default="", help="Ways, by commas, in this order; all without.")
    parser.add_argument("--steps", type=int, default=20, help="Steps that are counted.")
    parser.add_argument("--warm", type=int, default=5, help="Steps before them, at least 1.")
    parser.add_argument("--micro-batch", type=int, default=4, help="Rows of a forward pass, where they fit.")
    parser.add_argument("--limit", type=float, default=300, help="Seconds of a process, compiling and all.")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peak", type=float, default=989e12, help="FLOP/s of the GPU that MFU is a share of.")
    parser.add_argument("--tiny", action="store_true", help="Tiny shapes on a CPU: a test of this script.")
    parser.add_argument("--dir", type=Path, help="Where the temporary folder is made.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if unknown := set(options.models.split(",")) - set(MODELS):
        raise SystemExit(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    if options.warm < 1:
        raise SystemExit("the first step is no measure: --warm 1 or more")
    device = "cpu" if options.tiny else gpu()
    if device == "False":
        raise SystemExit("there is no CUDA device; --tiny tests this script on a CPU")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the temporary folder goes
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="surgeon-bench-", dir=options.dir) as name:
        for result in compare(Path(name), options):
            result |= {"machine": machine(load) | {"device": device}, "versions": versions()}
            result["flash_attn_interface"] = importlib.util.find_spec("flash_attn_interface") is not None
            result["command"] = " ".join(["python", *sys.argv])
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    for model, found in result["models"].items():
        print(model)
        for way, of in found["rounds"].items():
            values = found["median"].get(way)
            if values is None:
                print(f"  {way:26} failed: {of[0]['failed'].strip().splitlines()[-1]}")
                continue
            print(
                f"  {way:26} {values['tokens_per_s']:10,.0f} tokens/s  MFU {100 * values['mfu']:5.1f} %  "
                f"{values['memory_bytes'] / 1e9:6.1f} GB  micro-batch {values['micro_batch']:.0f}"
            )
        print(json.dumps(found["ratios"], indent=1))


if __name__ == "__main__":
    main()
