"""How fast an adapter is folded: surgeon beside PEFT's merge_and_unload and save.

    python benchmarks/fold.py --rounds 3 --out benchmarks/results/fold.json

Makes the random bfloat16 Llama checkpoint of benchmarks/expand.py and a LoRA on all its linear parts with random
factors, and folds it with both tools once a round, in an order drawn anew, each in a process of its own. `wall` is
until the process ends, `synced` until the output is on the disk (surgeon waits for that). PEFT adds in bfloat16, or in
float32 where the model is loaded so; surgeon adds in float64, rounds once, and counts what rounding let pass.
The error is that of one stored update against its value in float64.
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
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from expand import BLOCKS, MAKE, machine, measured

NAME = "model.layers.3.mlp.up_proj"

MOVE = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
path = Path(sys.argv[1]) / "adapter_model.safetensors"
held = load_file(path)
torch.manual_seed(1)
for name, tensor in held.items():
    if "lora_B" in name:
        tensor.normal_(std=1e-3)
save_file(held, path, {"format": "pt"})
"""

PEFT = """
import sys, torch
from transformers import AutoModelForCausalLM
from peft import PeftModel
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[4]))
model = PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload()
model.to(torch.bfloat16).save_pretrained(sys.argv[3], max_shard_size="500MB")
"""

ERROR = """
import json, sys, torch
from pathlib import Path
from safetensors import safe_open
model, adapter, out, name, scaling = *map(Path, sys.argv[1:4]), sys.argv[4], float(sys.argv[5])
def read(folder, tensor):
    for shard in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(shard, "pt") as held:
            if tensor in held.keys():
                return held.get_tensor(tensor).double()
a, b = (read(adapter, f"base_model.model.{name}.lora_{x}.weight") for x in "AB")
weight = read(model, f"{name}.weight")
delta = scaling * (b @ a)
kept = read(out, f"{name}.weight") - weight
print(json.dumps(float((kept - delta).norm() / delta.norm())))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--dir", type=Path, help="Where the temporary folder is made.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the temporary folder goes
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="surgeon-bench-", dir=options.dir) as name:
        result = compare(Path(name), options)
    result |= {"machine": machine(load), "command": " ".join(["python", *sys.argv])}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    for tool, values in result["median"].items():
        print(f"{tool:16}" + "".join(f" {k} {v:,.2f}" for k, v in values.items()))
    print(
        json.dumps(
            {k: result[k] for k in ("ratios", "largest_tensor_bytes", "relative_error_of_the_update")}, indent=1
        )
    )


def compare(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    env = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "XDG_CACHE_HOME": str(work / "cache")}
    model, adapter = work / "model", work / "adapter"
    model.mkdir()

    def python(*words: str) -> str:
        return subprocess.run([sys.executable, *words], check=True, env=env, capture_output=True, text=True).stdout

    python("-c", MAKE, str(model), str(BLOCKS), str(options.width), "4")
    words = ["--rank", str(options.rank), "--alpha", str(options.rank), "--quiet"]
    python("-m", "surgeon", "attach-adapter", str(model), str(adapter), *words)
    python("-c", MOVE, str(adapter))
    (adapter / "surgeon.json").unlink()  # its factors are no longer what it says
    tools = {
        "surgeon": ["-m", "surgeon", "fold-adapter", f"{model}+{adapter}", "OUT", "--quiet"],
        "peft bfloat16": ["-c", PEFT, str(model), str(adapter), "OUT", "bfloat16"],
        "peft float32": ["-c", PEFT, str(model), str(adapter), "OUT", "float32"],
    }
    rounds: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools}
    errors: dict[str, float] = {}
    out = work / "out"
    for number in range(options.rounds):
        for tool, command in random.Random(number).sample(list(tools.items()), len(tools)):
            shutil.rmtree(work / "cache", ignore_errors=True)  # the digests of the inputs are computed each time
            os.sync()
            rounds[tool].append(
                measured([sys.executable, *(str(out) if w == "OUT" else w for w in command)], out, env)
            )
            if number == 0:
                errors[tool] = json.loads(python("-c", ERROR, str(model), str(adapter), str(out), NAME, "1.0"))
            shutil.rmtree(out)
            print(tool, {k: round(v, 2) for k, v in rounds[tool][-1].items()}, file=sys.stderr, flush=True)
    ratios = {
        f"{tool} / surgeon, {what}": round(
            median(a[what] / b[what] for a, b in zip(held, rounds["surgeon"], strict=True)), 2
        )
        for tool, held in rounds.items()
        if tool != "surgeon"
        for what in ("wall_s", "synced_s", "cpu_s", "peak_rss_bytes")
    }
    return {
        "rounds": rounds,
        "median": {t: {k: median(r[k] for r in held) for k in held[0]} for t, held in rounds.items()},
        "ratios": ratios,
        "largest_tensor_bytes": 32000 * options.width * 2,
        "relative_error_of_the_update": errors,
    }


if __name__ == "__main__":
    main()
