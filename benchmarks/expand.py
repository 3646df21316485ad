"""How fast a checkpoint is deepened: surgeon beside mergekit, transformers and a plain copy.

    python benchmarks/expand.py --rounds 3 --out benchmarks/results/expand.json

Makes a random bfloat16 Llama checkpoint in several shards, adds 4 blocks that compute nothing (o_proj and down_proj
zero) evenly spread and at the end, and lets every tool do it once a round, in an order drawn anew, each in a process
of its own. `wall` is until the process ends, `synced` until the output is on the disk too (surgeon waits for that
itself); CPU and the peak of resident memory are the kernel's figures for the process. `cp` copies surgeon's finished
output, so the same bytes (zeros too: looking for holes would cost it three times as much). `cold` starts with no known
digest of the input, `warm` with those an earlier run left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

BLOCKS = 16
INSERTIONS = {"uniform": (3, 7, 11, 15), "deep": (12, 13, 14, 15)}

MAKE = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
folder, blocks, width, shards = Path(sys.argv[1]), *map(int, sys.argv[2:])
inner, vocab = width * 11 // 4, 32000
config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=width, intermediate_size=inner,
              num_hidden_layers=blocks, num_attention_heads=16, num_key_value_heads=16, vocab_size=vocab,
              max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=False, torch_dtype="bfloat16",
              bos_token_id=1, eos_token_id=2, hidden_act="silu")
(folder / "config.json").write_text(json.dumps(config, indent=2))
torch.manual_seed(0)
shapes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (width, width), "self_attn.v_proj": (width, width),
          "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
          "mlp.down_proj": (width, inner), "input_layernorm": (width,), "post_attention_layernorm": (width,)}
names = {"model.embed_tokens.weight": (vocab, width)}
names |= {f"model.layers.{b}.{p}.weight": s for b in range(blocks) for p, s in shapes.items()}
names |= {"model.norm.weight": (width,), "lm_head.weight": (vocab, width)}
total = sum(torch.Size(s).numel() * 2 for s in names.values())
groups, filled = [[]], 0
for name, shape in names.items():
    size = torch.Size(shape).numel() * 2
    if filled + size / 2 > total / shards * len(groups) and len(groups) < shards:
        groups.append([])
    groups[-1].append(name)
    filled += size
weight_map = {}
for i, group in enumerate(groups):
    shard = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
    tensors = {n: (torch.randn(names[n], dtype=torch.float32) * 0.02).to(torch.bfloat16) for n in group}
    save_file(tensors, folder / shard, metadata={"format": "pt"})
    weight_map |= dict.fromkeys(group, shard)
(folder / "model.safetensors.index.json").write_text(
    json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
print(total)
"""

KNOW = """
import sys
from surgeon.checkpoint.index import Checkpoint
Checkpoint.open(sys.argv[1]).digest
"""

TRANSFORMERS = """
import copy, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
layers = []
for i, layer in enumerate(model.model.layers):
    layers.append(layer)
    if str(i) in sys.argv[3].split(","):
        new = copy.deepcopy(layer)
        new.self_attn.o_proj.weight.data.zero_()
        new.mlp.down_proj.weight.data.zero_()
        layers.append(new)
model.model.layers = torch.nn.ModuleList(layers)
model.config.num_hidden_layers = len(layers)
model.save_pretrained(sys.argv[2], max_shard_size="500MB")
"""


def mergekit_recipe(model: Path, after: tuple[int, ...]) -> str:
    """Slices of old blocks, and behind each named block a copy of it with its output projections scaled to zero."""
    slices, start = [], 0
    zero = {"scale": [{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": 0.0}, {"value": 1.0}]}
    for block in after:
        slices.append({"sources": [{"model": str(model), "layer_range": [start, block + 1]}]})
        slices.append({"sources": [{"model": str(model), "layer_range": [block, block + 1], "parameters": zero}]})
        start = block + 1
    if start < BLOCKS:
        slices.append({"sources": [{"model": str(model), "layer_range": [start, BLOCKS]}]})
    return json.dumps({"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"})


def measured(command: list[str], out: Path, env: dict[str, str]) -> dict[str, float]:
    """Run a command that writes `out`: its wall time, CPU and peak memory, and what it took to have it on the disk."""
    log = out.parent / "log.txt"
    with log.open("wb") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=env, stdout=errors, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{log.read_text()[-3000:]}")
    for path in out.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
    synced = time.perf_counter() - started
    written = sum(p.stat().st_blocks * 512 for p in out.rglob("*") if p.is_file() and p.stat().st_nlink == 1)
    return {
        "wall_s": wall,
        "synced_s": synced,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        "bytes_written": written,
    }


def tensor_digests(folder: Path) -> dict[str, str]:
    """sha256 of every tensor by name, read without any of the tools; -0 counts as 0 (mergekit multiplies by zero)."""
    found = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    file.seek(8 + length + begin)
                    digest, zero = hashlib.sha256(), True
                    for at in range(begin, end, 1 << 20):  # a child's peak begins at what its parent holds
                        data = file.read(min(1 << 20, end - at))
                        zero = zero and not data.strip(b"\x00\x80")
                        digest.update(data)
                    found[name] = "zeros" if zero else digest.hexdigest()
    return found


def tools(model: Path, work: Path, copied: dict[str, Path]) -> Iterator[tuple[str, Callable[[Path], list[str]]]]:
    """(name, command for an output folder) of everything that is compared."""
    here = Path(sys.executable).parent
    for where, after in INSERTIONS.items():
        at = ",".join(map(str, after))
        for mode in ("copy", "link"):
            words = ["--at", at, "--fill", "zero", "--quiet", *(["--link"] if mode == "link" else [])]
            for state in ("cold", "warm"):
                yield (
                    f"surgeon {mode} {state} {where}",
                    lambda out, words=words: [
                        sys.executable, "-m", "surgeon", "expand-layers", str(model), str(out), *words,
                    ],
                )  # fmt: skip
        recipe = work / f"{where}.yaml"
        recipe.write_text(mergekit_recipe(model, after))
        yield (
            f"mergekit {where}",
            lambda out, recipe=recipe: [str(here / "mergekit-yaml"), str(recipe), str(out), "--no-copy-tokenizer"],
        )
        yield (
            f"transformers {where}",
            lambda out, at=at: [sys.executable, "-c", TRANSFORMERS, str(model), str(out), at],
        )
        yield f"cp {where}", lambda out, where=where: ["cp", "-r", "--sparse=never", str(copied[where]), str(out)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--only", default="", help="Tools whose name contains one of these words, by commas.")
    parser.add_argument("--dir", type=Path, help="Where the temporary folder is made.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the temporary folder goes
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="surgeon-bench-", dir=options.dir) as name:
        for result in compare(Path(name), options):  # saved after every round
            result["machine"] = machine(load)
            result["command"] = " ".join(["python", *sys.argv])
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    for tool, values in result["median"].items():
        print(f"{tool:28}" + "".join(f" {k} {v:,.2f}" for k, v in values.items()))
    print(json.dumps(result["ratios"], indent=1))


def compare(work: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result so far, after every round."""
    env = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    model = work / "model"
    model.mkdir()
    made = [sys.executable, "-c", MAKE, str(model), str(BLOCKS), str(options.width), str(options.shards)]
    size = int(subprocess.run(made, check=True, capture_output=True, text=True, env=env).stdout)
    copied: dict[str, Path] = {}
    for where, after in INSERTIONS.items():  # what cp copies; and the first touch of the memory behind the cache
        copied[where] = work / f"reference-{where}"
        words = ["expand-layers", str(model), str(copied[where]), "--at", ",".join(map(str, after)), "--fill", "zero"]
        known = env | {"XDG_CACHE_HOME": str(work / "cache-warm")}
        subprocess.run(
            [sys.executable, "-m", "surgeon", *words, "--quiet"], check=True, env=known, capture_output=True
        )
    expected = {where: tensor_digests(folder) for where, folder in copied.items()}
    chosen = [
        (tool, command)
        for tool, command in tools(model, work, copied)
        if not options.only or any(word in tool for word in options.only.split(","))
    ]
    rounds: dict[str, list[dict[str, float]]] = {tool: [] for tool, _ in chosen}
    for number in range(options.rounds):
        # another order every round: a tool that has used much memory leaves the next one slower pages
        for tool, command in random.Random(number).sample(chosen, len(chosen)):
            out = work / "out"
            cold = work / "cache-cold"
            shutil.rmtree(cold, ignore_errors=True)
            cache = work / "cache-warm" if "warm" in tool else cold
            if "warm" in tool:  # linking and removing links changes the inodes: what was known does not hold any more
                known = env | {"XDG_CACHE_HOME": str(cache)}
                subprocess.run([sys.executable, "-c", KNOW, str(model)], check=True, env=known)
            os.sync()
            rounds[tool].append(measured(command(out), out, env | {"XDG_CACHE_HOME": str(cache)}))
            if number == 0:
                assert tensor_digests(out) == expected[tool.split()[-1]], f"{tool} wrote other tensors"
            shutil.rmtree(out)
            print(tool, {k: round(v, 2) for k, v in rounds[tool][-1].items()}, file=sys.stderr, flush=True)
        middle = {t: {k: median(r[k] for r in found) for k in found[0]} for t, found in rounds.items()}
        yield {"input_bytes": size, "rounds": rounds, "median": middle, "ratios": ratios(rounds)}


def ratios(rounds: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """How many times longer the other tools take than surgeon, and surgeon than cp: the median over the rounds of the
    ratio within a round, in wall time, in time until the output is on the disk (surgeon's wall time ends there) and in
    CPU time."""
    found = {}
    for tool, own in rounds.items():
        if not tool.startswith("surgeon"):
            continue
        where = tool.split()[-1]
        for other in ("mergekit", "transformers"):
            for what in ("wall_s", "synced_s", "cpu_s"):
                pairs = zip(rounds.get(f"{other} {where}", ()), own, strict=False)
                quotients = [theirs[what] / mine["cpu_s" if what == "cpu_s" else "wall_s"] for theirs, mine in pairs]
                if quotients:
                    found[f"{other} / {tool}, {what}"] = round(median(quotients), 2)
        for what in ("wall_s", "synced_s", "cpu_s"):
            pairs = zip(rounds.get(f"cp {where}", ()), own, strict=False)
            quotients = [mine["cpu_s" if what == "cpu_s" else "wall_s"] / theirs[what] for theirs, mine in pairs]
            if quotients:
                found[f"{tool} / cp, {what}"] = round(median(quotients), 2)
    return found


def machine(load: tuple[float, float, float]) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().split("\n")
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": load,
        "load_after": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
