"""What each init is worth on a real small model: before training, and after 100 and 1,000 steps.

For every text, seed and init: the model is extended with tokens learned on the text's training part, then measured
on its held-out part (bits per byte) and on old text (nats a token lost in the old encoding, share of positions at
which an old token still wins), and trained by `cpt` with --train new-rows and with --train full. The seed draws the
init and the order of the data.

    python benchmarks/vocab_quality.py --model MODEL --text NAME=STEM ... --old STEM [--inits a,b] [--seeds 0,1,2]

Beside the inits stand floors (vocab_floor.py), what training the rows on the text itself for long can reach; they run
where --inits names them.

Results are appended to --cache (JSON lines) as they come, so that a run that was stopped goes on; the table and
--json hold the means and standard deviations over the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from vocab_old_text import cost, whole
from vocab_table import show, summary

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

BRIEF = {"max_windows": 4096, "steps": 100, "lr": 0.05, "join": 0, "relative_lr": 0.0}
# what is compared: settings of extend-vocab; "probe" is filled in with the old text
INITS: dict[str, dict[str, Any]] = {
    "default": {"probe": True},
    "default without a probe": {},
    "default --untie": {"probe": True, "untie": True},
    "default fitted briefly": {"init": "distill_hull", "probe": True, "option": BRIEF},
    "default --untie fitted briefly": {
        "init": "distill_hull", "probe": True, "untie": True, "option": BRIEF,
    },
    "weighted_pieces within 0.02": {"init": "weighted_pieces", "probe": True, "old_loss_budget": 0.02},
    "weighted_pieces within 0.02 --untie": {
        "init": "weighted_pieces", "probe": True, "old_loss_budget": 0.02, "untie": True,
    },
    "subword_mean": {"init": "subword_mean"},
    "last / first piece": {
        "init": "subword_mean", "option": {"lean": "last"},
        "init_output": "subword_mean", "option_output": {"lean": "first"},
    },
    "zero": {"init": "zero"},
    "random": {"init": "random"},
    "univariate": {"init": "univariate"},
    "gaussian 1e-5": {"init": "gaussian"},
    "gaussian 1 (Hewitt)": {"init": "gaussian", "option": {"scale": 1.0}},
    "mean": {"init": "mean"},
    "convex_hull": {"init": "convex_hull"},
    "align": {"init": "align"},
    "cw2v": {"init": "cw2v"},
    "cw2v not trained": {"init": "cw2v", "option": {"epochs": 0}},
    "cw2v_dense": {"init": "cw2v_dense"},
    "focus": {"init": "focus"},
    "ofa": {"init": "ofa"},
    "simplex_lm": {"init": "simplex_lm"},
    "distill": {"init": "distill"},
}  # fmt: skip
_FLOOR: dict[str, Any] = {"init": "vocab_floor:floor", "probe": True}
FLOORS: dict[str, dict[str, Any]] = {  # only where --inits names them
    "floor": _FLOOR,
    "floor within 0.02": _FLOOR | {"option": {"limit": 0.02}},
    "floor in the hull within 0.02": _FLOOR | {"option": {"limit": 0.02, "hull": True}},
}
TIED = {"last / first piece": {"untie": True}}  # what needs two matrices
TRAIN = {"new-rows": 5e-3, "full": 1e-3}  # learning rates
STEPS = (100, 1000)


def extended(settings: dict[str, Any], job: dict[str, Any], out: Path) -> tuple[float, float]:
    """Write the extended model; gives the seconds, of the wall and of the CPU."""
    from surgeon.operations import perform
    from surgeon.vocab.settings import ExtendVocabSettings

    words = dict(settings)
    if words.pop("probe", False):
        words["probe"] = [job["old_train"]]
    started = time.perf_counter(), time.process_time()
    perform(
        "extend-vocab",
        ExtendVocabSettings(
            model=job["model"], out=out, corpus=[job["train"]], add=job["add"], seed=job["seed"], device="cpu", **words
        ),
    )
    return time.perf_counter() - started[0], time.process_time() - started[1]


def bits_per_byte(name: str, folder: Path, corpus: str, counts: list[int]) -> dict[str, float]:
    """Of the first `counts` tokens of the corpus; where there are several, all but the first are in the names."""
    from surgeon.measure.perplexity import evaluate

    found = {}
    for tokens in counts:
        result = evaluate([str(folder)], [f"text={corpus}"], tokens=tokens, device="cpu", dtype="float32")
        key = name if tokens == counts[0] else f"{name} ({tokens} tokens)"
        found[key] = float(result["models"][0]["corpora"][0]["bits_per_byte"])
    return found


def old_text(base: str, folder: Path, corpus: str, counts: list[int]) -> dict[str, float]:
    """Nats a token lost (with its standard error over documents), and the share of positions at which an old token
    wins, of old text in the old encoding, read as a probe is: whole documents, in windows behind the start.

    Of the first `counts` tokens of the corpus, rising; where there are several, all but the first are in the names."""
    import torch

    from surgeon.data.source import documents, parse_corpus
    from surgeon.loading import context_length, load_model, load_tokenizer
    from surgeon.vocab.body import WINDOW
    from surgeon.vocab.windows import start_ids

    tokenizer, start = load_tokenizer(Path(base)), start_ids(Path(base))
    old, new = (load_model(Path(p), device=torch.device("cpu"), dtype=torch.float32) for p in (base, folder))
    size = min(context_length(old) or WINDOW, WINDOW)
    found: dict[str, float] = {}
    for tokens in counts:
        read = (tokenizer(d.text, add_special_tokens=False)["input_ids"] for d in documents(parse_corpus(corpus)))
        of = cost(old, new, (whole(ids, start, size) for ids in read), tokens)
        if of.tokens < tokens:
            raise SystemExit(f"{corpus} holds {of.tokens} tokens, and {tokens} are to be measured")
        also = "" if tokens == counts[0] else f" ({tokens} tokens)"
        found |= {f"lost{also}": of.lost, f"lost +-{also}": of.error, f"kept{also}": of.kept}
    return found


def measured(folder: Path) -> dict[str, float]:
    """What the extension itself says of the probe: the loss it reports, without its share of the mean, the share."""
    from surgeon.checkpoint.index import Checkpoint

    lineage = Checkpoint.open(folder).lineage
    said = lineage.rows.calibration if lineage is not None and lineage.rows is not None else None
    if said is None:
        return {}
    return {"said": said["loss_increase"], "said unmixed": said["unmixed_loss_increase"], "share": said["share"]}


def trained(folder: Path, job: dict[str, Any], what: str, steps: int, out: Path) -> dict[str, float]:
    """Bits per byte of the held-out text after `steps` steps of cpt."""
    from surgeon.operations import perform
    from surgeon.train.settings import CptSettings

    perform(
        "cpt",
        CptSettings(
            model=str(folder), out=str(out), data=[job["train"]], tokens=steps * job["batch"], train=what,
            seq_len=job["seq_len"], batch_tokens=job["batch"], lr=TRAIN[what], schedule="constant",
            option={"warmup": 10}, weight_decay=0.0, seed=job["seed"], device="cpu", dtype="float32",
            save_every=10 * steps,
        ),
    )  # fmt: skip
    found = bits_per_byte(f"{what} {steps}", out, job["valid"], job["eval_tokens"])
    shutil.rmtree(out)
    return found


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """All numbers of one (text, init, seed)."""
    import torch

    torch.set_num_threads(1)
    words = (INITS | FLOORS)[job["init"]] | (TIED.get(job["init"], {}) if job["tied"] else {})
    with tempfile.TemporaryDirectory(prefix="surgeon-quality-") as folder:
        out = Path(folder) / "extended"
        seconds, cpu_seconds = extended(words, job, out)
        numbers = {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            **bits_per_byte("0", out, job["valid"], job["eval_tokens"]),
            **old_text(job["model"], out, job["old"], job["old_tokens"]),
            **measured(out),
        }
        for what, steps in product(job["modes"], job["steps"]):
            numbers |= trained(out, job, what, steps, Path(folder) / "trained")
    return {key: job[key] for key in ("text", "init", "seed")} | {"numbers": numbers}


def cut(path: Path, num_bytes: int, folder: Path) -> str:
    """The first documents of a corpus, `num_bytes` of them or all: learning and training read the whole file."""
    out = folder / path.name
    with path.open(encoding="utf-8") as source, out.open("w", encoding="utf-8") as target:
        written = 0
        for line in source:
            if written >= num_bytes:
                break
            written += len(line.encode())
            target.write(line)
    return str(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", action="append", required=True, help="NAME=STEM: STEM.train.jsonl, STEM.valid.jsonl")
    parser.add_argument("--old", required=True, help="STEM of the old text: .train is the probe, .valid is measured")
    parser.add_argument("--inits", default=",".join(INITS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--modes", default="new-rows,full")
    parser.add_argument("--steps", default="100,1000")
    parser.add_argument("--add", type=int, default=256)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--eval-tokens", default="10000", help="of the held-out text, one count or several")
    parser.add_argument("--old-tokens", help="of the old text, one count or several [the first of --eval-tokens]")
    parser.add_argument("--train-bytes", type=int, default=1_500_000, help="of each training part")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("vocab-quality.jsonl"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    config = json.loads((Path(args.model) / "config.json").read_text(encoding="utf-8"))
    tied = config.get("tie_word_embeddings", True)
    folder = tempfile.TemporaryDirectory(prefix="surgeon-quality-")
    old = cut(Path(f"{args.old}.train.jsonl"), args.train_bytes, Path(folder.name))
    texts = {}
    for text in args.text:
        name, _, stem = text.partition("=")
        texts[name] = (cut(Path(f"{stem}.train.jsonl"), args.train_bytes, Path(folder.name)), f"{stem}.valid.jsonl")
    jobs = []
    for seed, text, init in product(map(int, args.seeds.split(",")), texts, args.inits.split(",")):
        jobs.append({
            "init": init, "text": text, "seed": seed, "model": args.model, "tied": tied,
            "train": texts[text][0], "valid": texts[text][1], "old_train": old,
            "old": f"{args.old}.valid.jsonl", "add": args.add, "batch": args.batch, "seq_len": args.seq_len,
            "eval_tokens": list(map(int, args.eval_tokens.split(","))),
            "old_tokens": sorted(map(int, (args.old_tokens or args.eval_tokens.split(",")[0]).split(","))),
            "modes": [m for m in args.modes.split(",") if m], "steps": list(map(int, args.steps.split(","))),
        })  # fmt: skip
    done = [json.loads(line) for line in args.cache.read_text().splitlines()] if args.cache.is_file() else []
    have = {(r["text"], r["init"], r["seed"]) for r in done}
    left = [j for j in jobs if (j["text"], j["init"], j["seed"]) not in have]
    with ProcessPoolExecutor(args.jobs) as pool, args.cache.open("a", encoding="utf-8") as cache:
        for future in as_completed([pool.submit(measure, job) for job in left]):
            record = future.result()
            done.append(record)
            cache.write(json.dumps(record) + "\n")
            cache.flush()
            print(f"{len(done)}/{len(jobs)} {record['text']} {record['init']} {record['seed']}", file=sys.stderr)
    folder.cleanup()
    order = {init: i for i, init in enumerate(args.inits.split(","))}
    wanted = sorted((r for r in done if r["init"] in order), key=lambda r: (r["text"], order[r["init"]], r["seed"]))
    result = summary(wanted, TRAIN)
    show(result)
    if args.json:
        import torch

        about = {
            "command": " ".join(["python", *sys.argv]), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "torch": torch.__version__, "add": args.add, "batch_tokens": args.batch, "lr": TRAIN,
        }  # fmt: skip
        args.json.write_text(json.dumps(about | {"texts": result}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
