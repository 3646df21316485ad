"""The loop, the data and the head's loss of `surgeon cpt` on a CPU, beside transformers.Trainer and torch.

    python benchmarks/cpt_cpu.py --rounds 5 --out benchmarks/results/cpt_cpu.json

Every way runs in a process of its own with one thread, once a round in an order drawn anew. CPU seconds (user and
system, of the process) are the main figure: the machine is shared; wall seconds stand beside them.

loop: the story model of the quickstart (260K parameters, float32), 1 or 8 packed rows of 128 tokens a step, the same
rows in the same order, AdamW (fused), clipping at 1, a constant rate. `bare` is forward, backward and update and
nothing else, on batches that are there: what a way takes above it is its overhead, taken from the lower quartile of
the steps' CPU seconds, since a neighbour on the machine makes steps dearer and never cheaper. All end with the same
loss, or this script refuses. Trainer logs every 500 steps by itself; `surgeon` writes a line a step, so Trainer is
measured with that too.
data: from .jsonl to rows that are ready (prepare: tokenise and pack, with empty caches), and reading them (tokens/s).
datasets: map to tokens, map with the group_texts of run_clm.py (positions run through the row), Trainer's dataloader.
resume: from prepared data on the disk to the first batch of a later step, the data's part alone; imports, tokenizer
and model are there already. streaming: Trainer on an iterable dataset,
which tokenises and packs again what was read before; mixture: surgeon with two corpora, whose turns the run before it
has left in the cache (as the run did that got there); mixture, another machine: without that cache.
head: cross-entropy of a head of 49,152 rows, forward and backward; memory is what was resident at the most, beyond
what was before.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from cpt_cpu_programs import COMMON, DATASETS, HEAD, LOOP, MADE, WAYS
from expand import machine

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "recipes" / "quickstart" / "model"
TEXTS = [ROOT / "recipes" / "quickstart" / f"{name}.train.jsonl" for name in ("domain", "general")]
SEQ_LEN, ROWS, LR = 128, 8, 1e-4
WARM = 20  # steps before the first that is counted
TOKENS, WIDTH, VOCAB, TIMES = 2048, 576, 49152, 2  # of the head, and how often it is computed


def parts(work: Path, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    """(name, script by way, what it is given) of everything that is compared; the first makes what the others read."""
    yield "prepare", {w: DATASETS + s for w, s in WAYS["prepare"].items()}, {"fresh": True}
    yield "read", {w: DATASETS + s for w, s in WAYS["read"].items()}, {"steps": options.read_steps}
    for step in map(int, options.resume.split(",")):
        yield f"resume {step}", {w: DATASETS + s for w, s in WAYS["resume"].items()}, {"step": step}
    for rows in map(int, options.rows.split(",")):
        loop = {"steps": options.steps + WARM + 1, "warm": WARM, "rows": rows, "fresh": True}
        yield f"loop {rows}", {w: LOOP + s for w, s in WAYS["loop"].items()}, loop
    head = {w: s + HEAD for w, s in WAYS["head"].items()}
    if not _has_linear_cross_entropy():
        del head["F.linear_cross_entropy"]
    yield "head", head, {"head": options.head_sizes, "times": TIMES}


def _has_linear_cross_entropy() -> bool:
    return tuple(map(int, version("torch").split("+")[0].split(".")[:2])) >= (2, 13)


def measured(script: str, given: dict[str, Any], cache: Path) -> dict[str, Any]:
    """One run of a script in a process of its own."""
    env = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    env |= {"XDG_CACHE_HOME": str(cache), "RAYON_NUM_THREADS": "1"}
    words = [sys.executable, "-c", COMMON + script, json.dumps(given)]
    run = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{run.stdout}\n{run.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(run.stdout.strip().split("\n")[-1])
    return result


def compare(work: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result so far, after every part."""
    texts = [work / f"{path.name}" for path in TEXTS]
    for path, copy in zip(TEXTS, texts, strict=True):
        copy.write_bytes(path.read_bytes() * options.repeat)
    given = {"model": str(MODEL), "texts": list(map(str, texts)), "seq_len": SEQ_LEN, "rows": ROWS, "lr": LR}
    made = work / "made"
    made.mkdir()
    rows = measured(DATASETS + MADE, given | {"work": str(made)}, made / "cache")
    result: dict[str, Any] = {"text_bytes": texts[0].stat().st_size, "rows_prepared": rows, "parts": {}}
    for part, scripts, more in parts(work, options):
        if options.only and not any(word in part for word in options.only.split(",")):
            continue
        rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in scripts}
        for number in range(options.rounds):
            for way in random.Random(f"{part}/{number}").sample(sorted(scripts), len(scripts)):
                with tempfile.TemporaryDirectory(dir=work) as own:
                    place, cache = (Path(own), Path(own)) if "fresh" in more else (made, made / "cache")
                    found = measured(scripts[way], given | more | {"work": str(place)}, cache)
                found["load"] = os.getloadavg()[0]
                rounds[way].append(found)
                print(part, way, {k: round(v, 4) for k, v in found.items()}, file=sys.stderr, flush=True)
        check(part, rounds)
        result["parts"][part] = {"rounds": rounds} | summary(part, rounds, more)
        yield result


def check(part: str, rounds: dict[str, list[dict[str, Any]]]) -> None:
    """Ways of one part did the same work: their losses (of the same rows, after all steps) agree."""
    for key, bound in (("loss", 1e-4), ("gradient", 1e-4)):
        values = [found[key] for of in rounds.values() for found in of if key in found]
        if values and max(values) - min(values) > bound * abs(values[0]):
            raise SystemExit(f"{part}: the ways do not agree: {key} {sorted(set(values))}")


def summary(part: str, rounds: dict[str, list[dict[str, Any]]], more: dict[str, Any]) -> dict[str, Any]:
    """Medians by way, and the median over the rounds of the ratio to surgeon within a round."""
    middle = {way: {k: median(r[k] for r in of) for k in of[0]} for way, of in rounds.items()}
    if "warm" in more:
        count = more["steps"] - 1 - more["warm"]
        for way, values in middle.items():
            for what in ("cpu_s", "wall_s"):
                values[what.replace("_s", "_ms_per_step")] = 1000 * values[what] / count
            pairs = zip(rounds[way], rounds["bare"], strict=True)
            values["overhead_cpu_ms_per_step"] = 1000 * median(a["step_cpu_s"] - b["step_cpu_s"] for a, b in pairs)
    for values in middle.values():
        if "tokens" in values:
            values["tokens_per_cpu_s"] = values["tokens"] / values["cpu_s"]
            values["tokens_per_s"] = values["tokens"] / values["wall_s"]
    ratios = {
        way: {
            what: round(median(a[what] / b[what] for a, b in zip(of, rounds["surgeon"], strict=True)), 3)
            for what in ("cpu_s", "wall_s", *(["step_cpu_s"] if "warm" in more else []))
        }
        for way, of in rounds.items()
    }
    return {"median": middle, "ratio_to_surgeon": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="Steps of the loop that are counted.")
    parser.add_argument("--rows", default="1,8", help="Rows of 128 tokens in a step of the loop.")
    parser.add_argument("--read-steps", type=int, default=2000)
    parser.add_argument("--resume", default="1000,10000", help="Steps to resume at.")
    parser.add_argument("--repeat", type=int, default=20, help="How often the quickstart's texts are written.")
    parser.add_argument("--head", default=f"{TOKENS},{WIDTH},{VOCAB}", help="Tokens, width and rows of the head.")
    parser.add_argument("--only", default="", help="Parts whose name contains one of these words, by commas.")
    parser.add_argument("--dir", type=Path, help="Where the temporary folder is made.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.head_sizes = list(map(int, options.head.split(",")))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the temporary folder goes
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="surgeon-bench-", dir=options.dir) as name:
        for result in compare(Path(name), options):  # saved after every part
            result |= {"machine": machine(load), "command": " ".join(["python", *sys.argv])}
            result["versions"] = {n: version(n) for n in ("torch", "transformers", "datasets", "accelerate")}
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    for part, found in result["parts"].items():
        print(part)
        for way, values in found["median"].items():
            ratio = found["ratio_to_surgeon"][way]["cpu_s"]
            print(f"  {way:28}" + "".join(f" {k} {v:,.4g}" for k, v in values.items()) + f" (CPU x {ratio:.3g})")


if __name__ == "__main__":
    main()
