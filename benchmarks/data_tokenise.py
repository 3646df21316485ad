"""How fast a corpus is tokenised to the disk: surgeon beside other ways on the same text and tokenizer.

    python benchmarks/data_tokenise.py --corpus A.jsonl B.jsonl --tokenizer DIR --rounds 3 --out FILE

Every way runs in a process of its own, once a round in an order drawn anew, and writes the token ids to the disk.
The time is from the first text read to the last id written; imports and the loading of the tokenizer are not counted.
CPU seconds (of the process and its children) are given beside: where others use the machine, they say more. Those of
datatrove's workers cannot be seen.
threads: surgeon's cache, the threads of the tokenizers library. warm: the same, when it is there already.
call: the tokenizer's own call in the same loop. pool: two processes with one thread each, ids sent back.
datasets.map: num_proc=2, after load_dataset. datatrove: DocumentTokenizer, two tasks (where it is installed; it adds
no start token, and its tasks need two files). The ids' counts agree but for the end tokens, one a document, which only
surgeon's have; that they are the same is a test's part.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from expand import machine

COMMON = """
import itertools, json, os, sys, time, resource
from pathlib import Path
import numpy as np
from surgeon.data.source import Corpus, documents
from surgeon.loading import load_tokenizer
corpus, out = Corpus("c", Path(sys.argv[1])), Path(sys.argv[3])
tokenizer = load_tokenizer(Path(sys.argv[2]))
def texts(size):
    source = documents(corpus)
    while batch := [d.text for d in itertools.islice(source, size)]:
        yield batch
def cpu():
    return sum(os.times()[:4])
def done(count, used=None):
    seconds, own = time.perf_counter() - began, resource.RUSAGE_SELF
    peak = max(resource.getrusage(who).ru_maxrss for who in (own, resource.RUSAGE_CHILDREN)) * 1024
    busy = None if used is None else cpu() - used
    print(json.dumps({"seconds": seconds, "cpu_s": busy, "tokens": int(count), "peak_rss_bytes": peak}))
"""
WAYS = {
    "threads": """
from surgeon.data.token_cache import read_tokens
import transformers, tokenizers
began, used = time.perf_counter(), cpu()
found = read_tokens(corpus, tokenizer).tokens
done(found.num_tokens, used)
""",
    "call": """
began, used, count = time.perf_counter(), cpu(), 0
with (out / "ids").open("wb") as file:
    for batch in texts(512):
        for ids in tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False).input_ids:
            file.write(np.asarray(ids, dtype=np.int32).data)
            count += len(ids)
done(count, used)
""",
    "pool": """
import multiprocessing
def work(batch):
    found = tokenizer.backend_tokenizer.encode_batch_fast(batch, add_special_tokens=False)
    return np.concatenate([np.asarray(e.ids, dtype=np.int32) for e in found])
began, used, count = time.perf_counter(), cpu(), 0
with (out / "ids").open("wb") as file, multiprocessing.get_context("fork").Pool(2) as pool:
    for ids in pool.imap(work, texts(128)):
        file.write(ids.data)
        count += len(ids)
done(count, used)
""",
    "datasets.map": """
import datasets
datasets.disable_progress_bars()
began, used = time.perf_counter(), cpu()
held = datasets.load_dataset("json", data_files=str(corpus.path), split="train", cache_dir=str(out))
def work(batch):
    return {"ids": tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False).input_ids}
held = held.map(work, batched=True, batch_size=512, num_proc=2, remove_columns=held.column_names)
seconds, busy = time.perf_counter() - began, cpu() - used
count = sum(map(len, held["ids"]))
began, used = time.perf_counter() - seconds, cpu() - busy
done(count, used)
""",
    "datatrove": """
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
(out / "in").mkdir()
lines = corpus.path.read_bytes().splitlines(keepends=True)
for part, held in (("a", lines[::2]), ("b", lines[1::2])):
    (out / "in" / f"{part}.jsonl").write_bytes(b"".join(held))
began = time.perf_counter()
name = str(Path(sys.argv[2]) / "tokenizer.json")
steps = [
    JsonlReader(str(out / "in")),
    DocumentTokenizer(str(out / "ids"), tokenizer_name_or_path=name, shuffle_documents=False, batch_size=512),
]
LocalPipelineExecutor(steps, tasks=2, workers=2, logging_dir=str(out / "log")).run()
size = 2 if tokenizer.vocab_size <= 1 << 16 else 4  # bytes a token
done(sum(p.stat().st_size for p in (out / "ids").glob("*.ds")) // size)
""",
}  # fmt: skip
ONE_THREAD = ("pool", "datasets.map", "datatrove")  # their processes are what runs at the same time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="JSONL files with a field `text`.")
    parser.add_argument("--tokenizer", type=Path, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="Where the temporary folder is made.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()
    result: dict[str, Any] = {"tokenizers": {}}
    with tempfile.TemporaryDirectory(prefix="surgeon-bench-", dir=options.dir) as name:
        work = Path(name)
        text = work / "corpus.jsonl"
        text.write_bytes(b"".join(path.read_bytes() for path in options.corpus))
        result["input_bytes"] = text.stat().st_size
        for tokenizer in options.tokenizer:
            for found in compare(text, tokenizer, work, options.rounds):  # saved after every round
                result["tokenizers"][tokenizer.name] = found
                result |= {"machine": machine(load), "command": " ".join(["python", *sys.argv])}
                if options.out:
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for tokenizer, found in result["tokenizers"].items():
        for way in found["median"]["seconds"]:
            shown = (
                f"{what} {found['median'][what][way]:7.2f} ({found['ratios'][what][way]:.2f})"
                for what in ("seconds", "cpu_s")
                if way in found["median"][what]
            )
            print(f"{tokenizer:14} {way:14}", *shown)


def compare(text: Path, tokenizer: Path, work: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """After every round: what each way took, medians, and the median over rounds of the ratio to surgeon's cache."""
    ways = [w for w in WAYS if w != "datatrove" or importlib.util.find_spec("datatrove")]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in [*ways, "warm"]}
    for number in range(rounds):
        for way in random.Random(number).sample(ways, len(ways)):
            with tempfile.TemporaryDirectory(dir=work) as out:
                for name in (way, "warm") if way == "threads" else (way,):
                    found[name].append(measured(way, text, tokenizer, Path(out)))
                    print(tokenizer.name, name, found[name][-1], file=sys.stderr, flush=True)
        counts = {r["tokens"] for way in ("call", "pool", "datasets.map") for r in found[way]}
        assert len(counts) == 1, f"other tokens: {counts}"
        middle, ratios = {}, {}
        for what in ("seconds", "cpu_s"):
            values = {way: [r[what] for r in of] for way, of in found.items() if of[0][what] is not None}
            middle[what] = {way: median(v) for way, v in values.items()}
            ratios[what] = {
                way: median(a / b for a, b in zip(v, values["threads"], strict=True)) for way, v in values.items()
            }
        yield {"rounds": found, "median": middle, "ratios": ratios}


def measured(way: str, text: Path, tokenizer: Path, out: Path) -> dict[str, Any]:
    """One run of a way in a process of its own, with a cache of its own."""
    env = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(out), "OMP_NUM_THREADS": "1"}
    env["TOKENIZERS_PARALLELISM"] = "false" if way in ONE_THREAD else "true"
    words = [sys.executable, "-c", COMMON + WAYS[way], str(text), str(tokenizer), str(out)]
    run = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{way}: {run.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(run.stdout.strip().split("\n")[-1])
    return result


if __name__ == "__main__":
    main()
