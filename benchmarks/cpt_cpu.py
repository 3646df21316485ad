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
from expand import machine

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "recipes" / "quickstart" / "model"
TEXTS = [ROOT / "recipes" / "quickstart" / f"{name}.train.jsonl" for name in ("domain", "general")]
SEQ_LEN, ROWS, LR = 128, 8, 1e-4
WARM = 20  # steps before the first that is counted
TOKENS, WIDTH, VOCAB, TIMES = 2048, 576, 49152, 2  # of the head, and how often it is computed

COMMON = """
import json, os, resource, sys, time
from pathlib import Path
import numpy as np, torch
from transformers.utils import logging
logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
given = json.loads(sys.argv[1])
work, model_path, texts = Path(given["work"]), given["model"], [Path(p) for p in given["texts"]]
S, R, LR = given["seq_len"], given["rows"], given["lr"]
marks = []
def mark():
    used = resource.getrusage(resource.RUSAGE_SELF)
    marks.append((time.perf_counter(), used.ru_utime + used.ru_stime))
def done(**more):
    (a, b), (c, d) = marks[0], marks[-1]
    found = {"cpu_s": d - b, "wall_s": c - a}
    if len(marks) > 2:  # a mark a step
        found["step_cpu_s"] = float(np.quantile(np.diff([used for _, used in marks]), 0.25))
    print(json.dumps(found | more))
from surgeon.data.mixture import Mixture
from surgeon.data.pack import Packed
from surgeon.data.source import Corpus
from surgeon.data.token_cache import read_tokens
from surgeon.loading import load_tokenizer
from surgeon.train.batch import collate
tokenizer, place = load_tokenizer(Path(model_path)), torch.device("cpu")
def packed(corpus=0):
    return Packed(read_tokens(Corpus(f"c{corpus}", texts[corpus]), tokenizer).tokens, S, 0, corpus, "split")
def mixture():
    return Mixture([packed()], [1.0], R)
"""

LOOP = """
steps, warm = given["steps"], given["warm"]
def rows():
    return [collate(mixture_.batch(step), place) for step in range(steps)]
def model_of():
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
def decays(model):
    named = list(model.named_parameters())
    split = [[p for _, p in named if (p.ndim >= 2) is wide] for wide in (True, False)]
    return [{"params": split[0], "weight_decay": 0.1}, {"params": split[1], "weight_decay": 0.0}]
def trainer(log_every):
    from transformers import Trainer, TrainerCallback, TrainingArguments
    class Marks(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step >= warm:
                mark()
    batches = rows()
    data = [{"input_ids": i, "position_ids": p, "labels": l, "shift_labels": l} for b in batches
            for i, p, l in zip(b.ids, b.positions, b.labels, strict=True)]
    arguments = TrainingArguments(
        str(work / "trainer"), per_device_train_batch_size=R, max_steps=steps, learning_rate=LR, warmup_steps=0,
        lr_scheduler_type="constant", optim="adamw_torch_fused", adam_beta1=0.9, adam_beta2=0.95, weight_decay=0.1,
        max_grad_norm=1.0, train_sampling_strategy="sequential", save_strategy="no", report_to="none",
        logging_steps=log_every, disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
        dataloader_pin_memory=False)
    made = Trainer(model_of(), arguments, train_dataset=data, callbacks=[Marks()])
    made.train()
    return made
def final(model):
    batch = rows()[-1]
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten()))
mixture_ = mixture()
"""
WAYS = {
    "loop": {
        "bare": """
model, batches = model_of(), rows()
optimizer = torch.optim.AdamW(decays(model), lr=LR, betas=(0.9, 0.95), fused=True)
model.train()
for step, b in enumerate(batches):
    if step >= warm:
        mark()
    logits = model(input_ids=b.ids, position_ids=b.positions, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), b.labels.flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loss.item()
done(loss=final(model))
""",
        "surgeon": """
from surgeon.train.job import prepare
from surgeon.train.loop import Loop
from surgeon.train.settings import CptSettings
class Marked(Loop):
    def _step(self, step, windows):
        if step > warm:
            mark()
        return super()._step(step, windows)
settings = CptSettings(model=model_path, out=str(work / "out"), data=[f"c0={texts[0]}"], tokens=steps * R * S,
    seq_len=S, batch_tokens=R * S, lr=LR, schedule="constant", save_every=10 * steps, device="cpu")
settings.run_dir.mkdir()
loop = Marked(prepare(settings))
loop.run(None)
done(loss=final(loop.job.model))
""",
        "Trainer": "made = trainer(500)\ndone(loss=final(made.model))\n",
        "Trainer, every step logged": "made = trainer(1)\ndone(loss=final(made.model))\n",
    },
    "prepare": {
        "surgeon": "mark()\nfound = packed()\nmark()\ndone(tokens=found.tokens.num_tokens)\n",
        "datasets": "mark()\nheld = grouped()\nmark()\ndone(tokens=len(held) * S)\n",
    },
    "read": {
        "surgeon": """
mixture_, steps = mixture(), given["steps"]
collate(mixture_.batch(0), place)
mark()
for step in range(1, steps + 1):
    collate(mixture_.batch(step), place)
mark()
done(tokens=steps * R * S)
""",
        "datasets": """
steps = given["steps"]
batches = iter(loader(prepared()))
next(batches)
mark()
for _ in range(steps):
    next(batches)
mark()
done(tokens=steps * R * S)
""",
    },
    "resume": {
        "surgeon": """
mark()
collate(mixture().batch(given["step"]), place)
mark()
done()
""",
        "surgeon, mixture": """
from surgeon.data.turns import Turns
Turns([0.7, 0.3]).counts(given["step"] * R)
mark()
collate(Mixture([packed(0), packed(1)], [0.7, 0.3], R).batch(given["step"]), place)
mark()
done()
""",
        "surgeon, mixture, another machine": """
import shutil
from surgeon.checkpoint.known_digests import cache_home
shutil.rmtree(cache_home() / "turns", ignore_errors=True)
mark()
collate(Mixture([packed(0), packed(1)], [0.7, 0.3], R).batch(given["step"]), place)
mark()
done()
""",
        "Trainer, mapped": """
mark()
next(iter(skip_first_batches(loader(prepared()), given["step"])))
mark()
done()
""",
        "Trainer, streaming": """
mark()
next(iter(skip_first_batches(loader(grouped(streaming=True)), given["step"])))
mark()
done()
""",
    },
    "head": {
        "surgeon": "from surgeon.train.linear_loss import linear_nats\nloss_of = linear_nats\n",
        "logits": """
def loss_of(hidden, weight, bias, labels):
    return F.cross_entropy(hidden @ weight.t(), labels, reduction="sum")
""",
        "F.linear_cross_entropy": """
def loss_of(hidden, weight, bias, labels):
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, labels, reduction="sum", options=options)
""",
    },
}
DATASETS = """
import datasets
from accelerate import skip_first_batches
from itertools import chain
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator
datasets.disable_progress_bars()
model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
def grouped(streaming=False):
    held = datasets.load_dataset("json", data_files=str(texts[0]), split="train", streaming=streaming,
                                 cache_dir=str(work / "hf"))
    def tokens(batch):
        return tokenizer([t + tokenizer.eos_token for t in batch["text"]], return_attention_mask=False)
    def group_texts(batch):  # as in examples/pytorch/language-modeling/run_clm.py
        joined = {k: list(chain(*batch[k])) for k in batch}
        total = len(joined["input_ids"]) // S * S
        found = {k: [t[i : i + S] for i in range(0, total, S)] for k, t in joined.items()}
        found["labels"] = found["input_ids"].copy()
        return found
    names = ["text"] if streaming else held.column_names
    return held.map(tokens, batched=True, remove_columns=names).map(group_texts, batched=True)
def prepared():
    return datasets.load_from_disk(str(work / "prepared"))
def loader(data):
    arguments = TrainingArguments(str(work / "trainer"), per_device_train_batch_size=R, max_steps=1 << 20,
        report_to="none", use_cpu=True, dataloader_pin_memory=False)
    return Trainer(model, arguments, train_dataset=data, data_collator=default_data_collator).get_train_dataloader()
"""
MADE = "packed()\npacked(1)\nheld = grouped()\nheld.save_to_disk(str(work / 'prepared'))\nprint(len(held))\n"
HEAD = """
import torch.nn.functional as F
T, H, V = given["head"]
torch.manual_seed(0)
hidden, weight = torch.randn(T, H, requires_grad=True), (torch.randn(V, H) * 0.02).requires_grad_()
labels = torch.randint(0, V, (T,))
def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what + ":"))
loss_of(hidden[:8], weight, None, labels[:8]).backward()  # gradients are there, libraries are loaded
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
mark()
for _ in range(given["times"]):
    hidden.grad.zero_(), weight.grad.zero_()
    loss = loss_of(hidden, weight, None, labels)
    loss.backward()
mark()
done(bytes=memory("VmHWM") - before, loss=float(loss), gradient=float(weight.grad.norm()))
"""


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
