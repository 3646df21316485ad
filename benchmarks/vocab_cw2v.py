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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

SIZES = {"llama-2": ("mistral-v1", 32_000, 25_948), "llama-3": ("qwen2", 128_256, 32_768)}
WIDTH = 4096


def texts_of(material: Path, name: str, megabytes: float) -> list[str]:
    found, left = [], megabytes * 1e6
    with (material / "corpora" / f"{name}.train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            found.append(json.loads(line)["text"])
            left -= len(found[-1].encode())
            if left < 0:
                break
    return found


def tokens_of(folder: Path, texts: list[str], add: int) -> tuple[Any, Any, list[list[int]]]:
    """(NewTokens with ids after the old ones, the old TokenizerFile, the texts as ids)."""
    from surgeon.vocab.learn import learn
    from surgeon.vocab.tokenizer_files import extend_files
    from surgeon.vocab.tokenizer_json import TokenizerFile
    from surgeon.vocab.tokens import NewTokens, old_pieces

    old = TokenizerFile.open(folder)
    learned = learn(old, texts, add)
    first = old.next_id
    files = extend_files(folder, old, learned.tokens, learned.merges, first)
    tokenizer = files.file.load()
    sequences = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    ids = tuple(range(first, first + len(learned.tokens)))
    return NewTokens(learned.tokens, ids, old_pieces(old, learned.tokens), ()), old, sequences


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


class Clock:
    """A Progress that takes the time of its tasks, without what comes before and after."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.positions = 0

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "tensors") -> Iterator[Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        self.positions += total or 0
        yield lambda amount: None
        self.wall, self.cpu = self.wall + time.perf_counter() - wall, self.cpu + time.process_time() - cpu

    def say(self, line: str) -> None:
        return None


class Counted:
    """Counts the pairs that training sees."""

    def __init__(self) -> None:
        from surgeon.vocab import skipgram

        self.pairs, real = 0, skipgram.pairs

        def counted(*args: Any) -> Iterator[Any]:
            for item in real(*args):
                self.pairs += len(item[1])
                yield item

        skipgram.pairs = counted


class Fixed:
    """Learned rows that stand."""

    def __init__(self, rows: Any) -> None:
        self.values = rows

    def rows(self, which: Any, run: Any) -> Any:
        return self.values[which]


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


def dense(args: argparse.Namespace) -> dict[str, Any]:
    """cw2v and cw2v_dense on the same pairs, epoch by epoch."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    from surgeon.vocab.inits.cw2v import first_logits, matrix
    from surgeon.vocab.inits.cw2v_dense import dense_matrix
    from surgeon.vocab.neighbours import neighbours
    from surgeon.vocab.shared_atoms import Schedule
    from surgeon.vocab.skipgram import Matrix, Objective, mean_loss, summed_negatives, train
    from surgeon.vocab.skipgram_text import Text
    from surgeon.vocab.threads import spread

    torch.set_num_threads(1)
    np.seterr(divide="ignore")  # tokens that only the held-out part has
    folder = args.material / "models" / "base"
    weights = load_file(folder / "model.safetensors")
    old = [weights["model.embed_tokens.weight"], weights["lm_head.weight"]]
    new, _, sequences = tokens_of(folder, texts_of(args.material, args.text, args.small_megabytes), args.add)
    new = replace(new, usable=tuple(range(3, len(old[0]))))
    tokens = np.concatenate([np.asarray(row, dtype=np.int64) for row in sequences])
    documents = np.repeat(np.arange(len(sequences)), [len(row) for row in sequences])
    whole = Text.of(tokens, documents, new.ids)
    parts = []
    for here in (documents % 10 != 0, documents % 10 == 0):
        counts = np.bincount(whole.codes[here], minlength=len(whole.ids))
        parts.append(replace(whole, codes=whole.codes[here], documents=documents[here], counts=counts))
    mended, released, counted = Objective(), Objective(summed_negatives, 5, None), Counted()

    def held_out(both: list[Any]) -> float:
        for one in both:
            one.text = parts[1]
        found = mean_loss(*both, np.random.Generator(np.random.Philox(99)), mended, window=5, batch=4096)
        for one in both:
            one.text = parts[0]
        return found

    def beginning(text: Text, part: int) -> Text:
        length = len(text.codes) // part
        counts = np.bincount(text.codes[:length], minlength=len(text.ids))
        return replace(text, codes=text.codes[:length], documents=text.documents[:length], counts=counts)

    def curve(
        both: list[Any],
        objective: Objective,
        lr: float,
        epochs: int,
        batch: int = 4096,
        jumps: Any = None,
        part: int = 1,
    ) -> list[dict[str, float]]:
        rng, clock = np.random.Generator(np.random.Philox(0)), Clock()
        whole_part = parts[0]
        parts[0] = beginning(whole_part, part)
        points = [{"pairs": 0, "cpu_seconds": 0.0, "seconds": 0.0, "held_out": held_out(both)}]
        seen = 0
        for _ in range(epochs):
            start = counted.pairs
            how: dict[str, Any] = {"window": 5, "batch": batch, "epochs": 1, "lr": lr, "threshold": 1e-3}
            train(*both, rng, objective, **how, jumps=jumps, progress=clock)
            seen += counted.pairs - start
            points.append({"pairs": seen, "cpu_seconds": clock.cpu, "seconds": clock.wall, "held_out": held_out(both)})
        parts[0] = whole_part
        return points

    def alike(both: list[Any]) -> float:
        with spread() as run:
            every = torch.arange(len(whole.held))
            rows = [one.learned.rows(every, run) for one in both]
        means = [row.mean(0).expand_as(row).contiguous() for row in rows]
        return held_out([Matrix(one.old_VD, Fixed(mean), whole) for one, mean in zip(both, means, strict=True)])

    def support(weights: list[Any]) -> float:
        return float(torch.stack([(1 / w.square().sum(1)).mean() for w in weights]).mean())

    runs: dict[str, Any] = {}
    last: dict[str, dict[str, float]] = {}
    started = time.process_time()
    train_tokens = parts[0].ids[parts[0].codes]
    near = neighbours(train_tokens, parts[0].documents, new.ids, new.usable, window=5, num=32, dimensions=64)
    start = first_logits(new, near, 32, 0.8, 0.1)
    prepared = time.process_time() - started
    sparse: list[tuple[float, int, int, int, int]] = [(lr, 0, 4096, args.epochs, 1) for lr in args.lr]
    for refresh in args.refresh:
        sparse += [(0.01, refresh, batch, 1, part) for batch, part in ((4096, 1), (8192, 1), (4096, 5))]
    for lr, refresh, batch, epochs, part in sparse:
        both = [matrix(one, new, parts[0], *start) for one in old]
        name = f"cw2v, lr {lr:g}"
        if refresh:
            name = f"cw2v, refresh {refresh}, batch {batch}" + (f", 1/{part}" if part > 1 else "")
        jumps = Schedule(torch.tensor(new.usable), refresh) if refresh else None
        runs[name] = curve(both, mended, lr, epochs, batch, jumps, part)
        last[name] = {"alike": alike(both), "support": support([one.learned.weights() for one in both])}
    for kind, objective in (("mended", mended), ("released", released)):
        for lr in args.dense_lr:
            name = f"cw2v_dense, {kind}, lr {lr:g}"
            rng = np.random.Generator(np.random.Philox(1))
            both = [dense_matrix(one, new, parts[0], 1024, rng) for one in old]
            runs[name] = curve(both, objective, lr, args.dense_epochs)
            weights = [one.learned.weights(torch.from_numpy(whole.held)) for one in both]
            last[name] = {"alike": alike(both), "support": support(weights)}
    return {
        "model": "base", "text": args.text, "new": len(new), "tokens": len(tokens), "width": old[0].shape[1],
        "old": len(old[0]), "batch": 4096, "neighbours_cpu_seconds": prepared, "runs": runs,
        "end": last, "against": against(runs),
    }  # fmt: skip


def against(runs: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Each dense run against each of cw2v: how many times the processor seconds a pair, by how much the held-out loss
    is higher after as many epochs, and how many times the processor seconds until `cw2v` has as low a loss (0: never).
    """

    def cost(run: Any) -> float:
        return float(run[-1]["cpu_seconds"] / run[-1]["pairs"])

    found: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        for other, sparse in runs.items():
            if "dense" in name and "dense" not in other and len(run) <= len(sparse):
                excess = run[-1]["held_out"] - sparse[len(run) - 1]["held_out"]
                there = [point["cpu_seconds"] for point in sparse[1:] if point["held_out"] <= run[-1]["held_out"]]
                found[f"{name} / {other}"] = {
                    "times": cost(run) / cost(sparse), "loss higher by": excess,
                    "times until as low": run[-1]["cpu_seconds"] / there[0] if there else 0.0,
                }  # fmt: skip
    return found


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
