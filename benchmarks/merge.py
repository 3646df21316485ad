"""How fast two task vectors are added to their base: surgeon beside mergekit and a plain copy.

    python benchmarks/merge.py --rounds 5 --out benchmarks/results/merge.json

Makes a random bfloat16 checkpoint with the shapes of Qwen3-0.6B and two tuned ones (deltas of 2e-3 and 1e-3 beside
weights of 2e-2), and adds both with weights 1.0 and 0.7, once a round, every tool in a process of its own, in an order
drawn anew. mergekit does it with its defaults (arithmetic in bfloat16) and in float32; surgeon adds in float64, rounds
once, and measures the deltas on the way. `copy` is what cannot be saved: `cp` of the output and `cat` of the three
inputs. All with a warm page cache. `cold`: surgeon with no known digest of the inputs, `warm`: with those of an
earlier run. `wall` is until the process ends, `synced` until the output is on the disk (surgeon waits for that
itself); CPU is the kernel's figure; `anon` is the peak of memory that is not backed by files. `numpy`: surgeon as
it is where no C compiler was there when it was installed. A second, smaller model (half of the blocks) says whether
the cost is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from expand import KNOW, machine

from surgeon.ops import fused_sum

TUNED = {"instruct": (2e-3, 1.0), "domain": (1e-3, 0.7)}

MAKE = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
root, blocks, tuned = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
width, inner, vocab = 1024, 3072, 151936
config = dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", hidden_size=width, intermediate_size=inner,
              num_hidden_layers=blocks, num_attention_heads=16, num_key_value_heads=8, head_dim=128, vocab_size=vocab,
              max_position_embeddings=40960, rms_norm_eps=1e-6, tie_word_embeddings=True, torch_dtype="bfloat16",
              bos_token_id=151643, eos_token_id=151645, hidden_act="silu", attention_bias=False,
              use_sliding_window=False)
shapes = {"self_attn.q_proj": (2048, width), "self_attn.k_proj": (1024, width), "self_attn.v_proj": (1024, width),
          "self_attn.o_proj": (width, 2048), "self_attn.q_norm": (128,), "self_attn.k_norm": (128,),
          "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner),
          "input_layernorm": (width,), "post_attention_layernorm": (width,)}
names = {"model.embed_tokens.weight": (vocab, width)}
names |= {f"model.layers.{b}.{p}.weight": s for b in range(blocks) for p, s in shapes.items()}
names |= {"model.norm.weight": (width,)}
total = sum(torch.Size(s).numel() * 2 for s in names.values())
shard_of, filled = {}, 0
for name, shape in names.items():
    shard_of[name] = min(2, filled * 3 // total)
    filled += torch.Size(shape).numel() * 2
for folder in ("base", *tuned):
    (root / folder).mkdir(parents=True)
    (root / folder / "config.json").write_text(json.dumps(config, indent=2))
    weight_map = {n: f"model-{s + 1:05d}-of-00003.safetensors" for n, s in shard_of.items()}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (root / folder / "model.safetensors.index.json").write_text(json.dumps(index))
for shard in range(3):
    mine = [n for n, s in shard_of.items() if s == shard]
    base = {}
    for n in mine:
        torch.manual_seed(hash(n) % 1000)
        base[n] = (torch.randn(names[n]) * 0.02).to(torch.bfloat16)
    for folder, size in {"base": 0.0, **tuned}.items():
        moved = {n: t if not size else (t.float() + torch.randn(t.shape) * size).to(t.dtype) for n, t in base.items()}
        save_file(moved, root / folder / f"model-{shard + 1:05d}-of-00003.safetensors", metadata={"format": "pt"})
print(total)
"""

NUMPY = """
from pathlib import Path
from surgeon.ops import fused_sum
fused_sum.LIBRARY = Path("/nowhere")
from surgeon.cli.app import main
main()
"""

ERROR = """
import json, sys, torch
from pathlib import Path
from safetensors import safe_open
root, out, weights = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
def read(folder, name):
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, "pt") as held:
            if name in held.keys():
                return held.get_tensor(name)
wrong = count = 0
for block in (0, 7):
    for part in ("mlp.up_proj", "self_attn.q_proj"):
        name = f"model.layers.{block}.{part}.weight"
        base = read(root / "base", name).double()
        exact = base.clone()
        for folder, weight in weights.items():
            exact += weight * (read(root / folder, name).double() - base)
        found = read(out, name)
        below, above = (torch.nextafter(found, torch.full_like(found, s * torch.inf)).double() for s in (-1, 1))
        error = (found.double() - exact).abs()
        wrong += int(((error > (below - exact).abs()) | (error > (above - exact).abs())).sum())
        count += found.numel()
print(wrong / count)
"""


def measured(command: list[str], out: Path, env: dict[str, str]) -> dict[str, float]:
    """Run a command that writes `out`."""
    log = out.parent / "log.txt"
    peak = [0]
    with log.open("wb") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=env, stdout=errors, stderr=errors)
        watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{log.read_text()[-3000:]}")
    for path in out.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
    return {
        "wall_s": wall,
        "synced_s": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "anon_bytes": peak[0],
    }


def _watch(pid: int, peak: list[int]) -> None:
    """The peak of RssAnon, looked at every few milliseconds."""
    while True:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        found = [line for line in lines if line.startswith("RssAnon:")]
        if not found:
            return
        peak[0] = max(peak[0], int(found[0].split()[1]) * 1024)
        time.sleep(0.003)


def recipe(root: Path, float32: bool) -> str:
    models = [{"model": str(root / n), "parameters": {"weight": w}} for n, (_, w) in TUNED.items()]
    types = {"dtype": "float32", "out_dtype": "bfloat16"} if float32 else {}
    return json.dumps({"merge_method": "task_arithmetic", "base_model": str(root / "base"), "models": models} | types)


def tools(root: Path, work: Path) -> Iterator[tuple[str, Callable[[Path], list[str]]]]:
    """(name, command for an output folder) of everything that is compared."""
    words = [word for n, (_, w) in TUNED.items() for word in ("--add", f"{root / n}={w}")]
    for state in ("cold", "warm"):
        yield (
            f"surgeon {state}",
            lambda out: [
                sys.executable, "-m", "surgeon", "merge-task-vectors", str(root / "base"), str(out), *words, "--quiet",
            ],
        )  # fmt: skip
    yield (
        "surgeon numpy warm",
        lambda out: [
            sys.executable, "-c", NUMPY, "merge-task-vectors", str(root / "base"), str(out), *words, "--quiet",
        ],
    )  # fmt: skip
    for name, float32 in (("mergekit", False), ("mergekit float32", True)):
        path = work / f"{name.replace(' ', '-')}.yaml"
        path.write_text(recipe(root, float32))
        tool = str(Path(sys.executable).parent / "mergekit-yaml")
        yield name, lambda out, path=path, tool=tool: [tool, str(path), str(out), "--no-copy-tokenizer"]
    inputs = " ".join(f"{root / n}/*.safetensors" for n in ("base", *TUNED))
    yield "copy", lambda out: ["sh", "-c", f"cp -r {root / 'base'} {out} && cat {inputs} > /dev/null"]


def compare(work: Path, options: argparse.Namespace, blocks: int) -> Iterator[dict[str, Any]]:
    """The result so far, after every round."""
    root = work / f"models-{blocks}"
    env = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "0"}
    sizes = json.dumps({name: size for name, (size, _) in TUNED.items()})
    made = [sys.executable, "-c", MAKE, str(root), str(blocks), sizes]
    size = int(subprocess.run(made, check=True, capture_output=True, text=True, env=env).stdout)
    chosen = [(n, c) for n, c in tools(root, work) if not options.only or any(w in n for w in options.only.split(","))]
    rounds: dict[str, list[dict[str, float]]] = {tool: [] for tool, _ in chosen}
    wrong: dict[str, float] = {}
    known = env | {"XDG_CACHE_HOME": str(work / "cache-warm")}
    for name in ("base", *TUNED):
        subprocess.run([sys.executable, "-c", KNOW, str(root / name)], check=True, env=known)
    for number in range(options.rounds):
        for tool, command in random.Random(number).sample(chosen, len(chosen)):
            out, cold = work / "out", work / "cache-cold"
            shutil.rmtree(cold, ignore_errors=True)
            os.sync()
            cache = work / "cache-warm" if "warm" in tool else cold
            rounds[tool].append(measured(command(out), out, env | {"XDG_CACHE_HOME": str(cache)}))
            if number == 0 and tool != "copy":
                weights = json.dumps({name: weight for name, (_, weight) in TUNED.items()})
                judge = [sys.executable, "-c", ERROR, str(root), str(out), weights]
                wrong[tool] = float(subprocess.run(judge, check=True, capture_output=True, text=True).stdout)
            shutil.rmtree(out)
            print(blocks, tool, {k: round(v, 2) for k, v in rounds[tool][-1].items()}, file=sys.stderr, flush=True)
        middle = {t: {k: median(r[k] for r in found) for k in found[0]} for t, found in rounds.items()}
        for tool, values in middle.items():
            values["moved_bytes_per_s"] = 4 * size / values["wall_s"]
            values |= {"not_nearest": wrong[tool]} if tool in wrong else {}
        yield {"blocks": blocks, "output_bytes": size, "rounds": rounds, "median": middle, "ratios": ratios(rounds)}
    shutil.rmtree(root)


def ratios(rounds: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """How many times longer mergekit takes than surgeon, and surgeon than the copy: medians over the rounds of the
    ratio within a round."""
    found = {}
    for tool in [t for t in rounds if t.startswith("surgeon")]:
        for other in [t for t in rounds if t.startswith("mergekit")]:
            for what in ("wall_s", "synced_s", "cpu_s"):
                mine = "cpu_s" if what == "cpu_s" else "wall_s"  # surgeon's wall time ends when it is on the disk
                pairs = zip(rounds[other], rounds[tool], strict=False)
                found[f"{other} / {tool}, {what}"] = round(median(a[what] / b[mine] for a, b in pairs), 2)
        for what in ("wall_s", "synced_s", "cpu_s") if "copy" in rounds else ():
            mine = "cpu_s" if what == "cpu_s" else "wall_s"
            pairs = zip(rounds["copy"], rounds[tool], strict=False)
            found[f"{tool} / copy, {what}"] = round(median(b[mine] / a[what] for a, b in pairs), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", default="28,14", help="Depths of the models; Qwen3-0.6B has 28.")
    parser.add_argument("--only", default="", help="Tools whose name contains one of these words, by commas.")
    parser.add_argument("--dir", type=Path, help="Where the temporary folder is made.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if fused_sum.library() is None:
        raise SystemExit("the compiled sum is not there: install surgeon where there is a C compiler")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the temporary folder goes
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="surgeon-bench-", dir=options.dir) as name:
        results: list[dict[str, Any]] = []
        for blocks in map(int, options.blocks.split(",")):
            latest: dict[str, Any] = {}
            for latest in compare(Path(name), options, blocks):
                saved = {"models": [*results, latest], "machine": machine(load)}
                saved["command"] = " ".join(["python", *sys.argv])
                if options.out:
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    options.out.write_text(json.dumps(saved, indent=1) + "\n")
            results.append(latest)
    for result in results:
        print(f"{result['blocks']} blocks, {result['output_bytes']:,} bytes")
        for tool, values in result["median"].items():
            print(f"  {tool:20}" + "".join(f" {k} {v:,.3g}" for k, v in values.items()))
        print(json.dumps(result["ratios"], indent=1))
    if len(results) > 1:
        for tool in results[0]["median"]:
            per_gb = [r["median"][tool]["cpu_s"] / r["output_bytes"] * 1e9 for r in results]
            print(f"{tool:20} CPU seconds per GB of output: " + ", ".join(f"{v:.2f}" for v in per_gb))


if __name__ == "__main__":
    main()
