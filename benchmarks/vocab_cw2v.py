"""What `cw2v` costs at the sizes of LLaMA-2 and Llama-3, and what it reaches against `cw2v_dense`.

    python benchmarks/vocab_cw2v.py --material MATERIAL [--parts llama-2,llama-3,dense] [--threads 2] [--json FILE]

Large sizes, one after the other, each in a process of its own whose peak memory is taken: two random bf16 matrices
[old, 4096] (seeded, N(0, 0.02)) and a real text. The tokens are learned from --texts by the tokenizer given in SIZES
(another process does it), so the text, the new ids and the pieces of every new token are real; qwen2 has more old
tokens than Llama-3, so its old ids are taken modulo 128,256. Old rows that stand for special tokens are not usable.

Against `cw2v_dense`: the model `base` (untied, 4096 x 256), tokens learned on one text, a tenth of its documents held
out. After each epoch: pairs and processor seconds of training so far, and the loss of `cw2v` (mended, shared
negatives) on the held-out pairs with the same negatives for all. One thread. Both compute only the rows of a batch.
"alike" is that loss at the end with every new row replaced by the mean of all new rows of its matrix: what is gained
without telling the new tokens apart. "support" is 1 / sum w^2, the mean over both matrices. "against" compares the
processor seconds of training alone: what comes before it for `cw2v` is "neighbours_cpu_seconds". "1/5" of the text is
its first fifth, trained on once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from vocab_cw2v_clock import Clock, Counted
from vocab_cw2v_dense import dense
from vocab_cw2v_text import texts_of, tokens_of

SIZES = {"llama-2": ("mistral-v1", 32_000, 25_948), "llama-3": ("qwen2", 128_256, 32_768)}
WIDTH = 4096


def prepare(args: argparse.Namespace) -> None:
    """Write the new tokens and the text of one size, shuffled by document, to args.folder/tokens.json."""
    import numpy as np

    tokenizer, num_old, num_new = SIZES[args.part]
    texts = [text for name in args.texts.split(",") for text in texts_of(args.material, name, args.megabytes)]
    texts = [texts[i] for i in np.random.Generator(np.random.Philox(0)).permutation(len(texts))]
    new, _, sequences = tokens_of(args.material / "tokenizers" / tokenizer, texts, num_new)
    first = new.ids[0]
    shift = num_old - first
    moved = [[i % num_old if i < first else i + shift for i in row] for row in sequences]
    pieces = [[i % num_old for i in row] for row in new.pieces]
    text = {"tokens": new.tokens, "pieces": pieces, "sequences": moved}
    (args.folder / "tokens.json").write_text(json.dumps(text), encoding="utf-8")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def large(args: argparse.Namespace) -> dict[str, Any]:
    """One init at a large size, in this process."""
    import numpy as np
    import torch

    from surgeon.vocab.inits.cw2v import cw2v
    from surgeon.vocab.tokens import NewTokens

    torch.set_num_threads(args.threads)
    _, num_old, num_new = SIZES[args.part]
    found = json.loads((args.folder / "tokens.json").read_text(encoding="utf-8"))
    sequences = [np.asarray(row, dtype=np.int32) for row in found["sequences"]]
    tokens, pieces = tuple(found["tokens"]), tuple(map(tuple, found["pieces"]))
    del found
    ids, usable = tuple(range(num_old, num_old + len(tokens))), tuple(range(3, num_old))
    new = NewTokens(tokens, ids, pieces, usable, lambda: (row.tolist() for row in sequences))
    matrices = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        matrices.append(torch.empty(num_old, WIDTH, dtype=torch.bfloat16))
        for rows in matrices[-1].split(1000):
            rows.copy_(torch.randn(rows.shape, generator=generator).mul_(0.02))
    before, counted, clock = peak(), Counted(), Clock()
    wall, cpu = time.perf_counter(), time.process_time()
    given = cw2v(new, *matrices, 0, clock, max_tokens=args.max_tokens)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for one in given:
        one.check(num_old, "cw2v")
    millions = counted.pairs / 1e6
    flat = np.concatenate(sequences)[: args.max_tokens]
    return {
        "old": num_old, "new": num_new, "width": WIDTH, "threads": args.threads, "tokens": len(flat),
        "new tokens in the text": int((np.unique(flat) >= num_old).sum()),
        "share of positions with a new token": float((flat >= num_old).mean()),
        "pairs": counted.pairs, "peak_gb": peak(), "peak_gb_before": before,
        "seconds": wall, "cpu_seconds": cpu, "training_seconds": clock.wall, "training_cpu_seconds": clock.cpu,
        "training_seconds_per_million_pairs": clock.wall / millions,
        "training_cpu_seconds_per_million_pairs": clock.cpu / millions,
        "sha256": digest(given),
    }  # fmt: skip


def digest(given: Any) -> str:
    import hashlib

    return hashlib.sha256(b"".join(one.weights.numpy().tobytes() for one in given)).hexdigest()[:16]


def child(args: argparse.Namespace, stage: str, part: str, folder: Path) -> None:
    command = [sys.executable, __file__, "--stage", stage, "--part", part, "--folder", str(folder)]
    for name in ("material", "texts", "megabytes", "max_tokens", "threads", "text", "small_megabytes", "add"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    command += ["--epochs", str(args.epochs), "--dense-epochs", str(args.dense_epochs)]
    command += ["--lr", *map(str, args.lr), "--dense-lr", *map(str, args.dense_lr)]
    command += ["--refresh", *map(str, args.refresh)]
    threads = "1" if stage == "dense" else str(args.threads)
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": threads})


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=130)
    sizes = Table("size", "old x new x width", "peak GB", "pairs", "CPU s / M pairs", "s / M pairs", "CPU s in all")
    for name in SIZES:
        if name in result:
            r = result[name]
            sizes.add_row(
                name, f"{r['old']:,} x {r['new']:,} x {r['width']:,}", f"{r['peak_gb']:.2f}", f"{r['pairs']:,}",
                f"{r['training_cpu_seconds_per_million_pairs']:.1f}", f"{r['training_seconds_per_million_pairs']:.1f}",
                f"{r['cpu_seconds']:.0f}",
            )  # fmt: skip
    if sizes.row_count:
        console.print(sizes)
    if "dense" in result:
        runs = Table(
            "run",
            "CPU s / M pairs",
            "held-out loss: start",
            "after 1 epoch",
            "at the end",
            "epochs",
            "alike",
            "support",
        )
        for name, run in result["dense"]["runs"].items():
            losses = [f"{run[i]['held_out']:.3f}" for i in (0, 1, -1)]
            runs.add_row(
                name, f"{run[-1]['cpu_seconds'] / run[-1]['pairs'] * 1e6:.1f}", *losses, str(len(run) - 1),
                f"{result['dense']['end'][name]['alike']:.3f}", f"{result['dense']['end'][name]['support']:.1f}",
            )  # fmt: skip
        console.print(runs)
        for name, one in result["dense"]["against"].items():
            until = f"{one['times until as low']:.0f} until as low" if one["times until as low"] else "never as low"
            console.print(f"{name}: {one['times']:.0f} times the seconds ({until}), loss {one['loss higher by']:+.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--parts", default="llama-2,llama-3,dense")
    parser.add_argument("--texts", default="ta,el,hi,ja,medical_en,law_en", help="of the large sizes")
    parser.add_argument("--megabytes", type=float, default=2.5, help="of each of these")
    parser.add_argument("--max-tokens", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text", default="medical_en", help="of the comparison with cw2v_dense")
    parser.add_argument("--small-megabytes", type=float, default=0.3)
    parser.add_argument("--add", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--dense-epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, nargs="+", default=[0.01, 0.1, 0.3])
    parser.add_argument("--refresh", type=int, nargs="+", default=[4], help="also cw2v with so many shared atoms")
    parser.add_argument("--dense-lr", type=float, nargs="+", default=[3e-4, 3e-3])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stage", choices=("prepare", "large", "dense"), help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage == "prepare":
        prepare(args)
        return
    if args.stage:
        found = {"large": large, "dense": dense}[args.stage](args)
        (args.folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
        return
    import torch

    result: dict[str, Any] = {}
    if args.json and args.json.is_file():
        result = json.loads(args.json.read_text(encoding="utf-8"))
    for part in args.parts.split(","):
        with tempfile.TemporaryDirectory(prefix="surgeon-cw2v-") as folder:
            if part in SIZES:
                child(args, "prepare", part, Path(folder))
            child(args, "large" if part in SIZES else "dense", part, Path(folder))
            result[part] = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
        result[part]["command"] = " ".join(["python", *sys.argv])
        result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, shared; load {os.getloadavg()[1]:.1f}"
        result["versions"] = {"python": platform.python_version(), "torch": torch.__version__}
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    show(result)


if __name__ == "__main__":
    main()
