"""What new output rows cost old text, by where in a document it is read, with the error of so few documents.

    python benchmarks/vocab_old_text.py --model BASE --extended FOLDER --old STEM

STEM.train.jsonl is taken to be the probe and STEM.valid.jsonl to be text that nothing was fitted to. Nats a token
in the old encoding; the standard error is that of a ratio of sums over documents: positions of one are alike.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from surgeon.data.source import documents, parse_corpus
from surgeon.loading import load_model, load_tokenizer

DEEP = 1022  # tokens into a document: the third window of 511


def cost(old: Any, new: Any, texts: list[list[int]]) -> tuple[float, float, int]:
    """(nats a token, its standard error, tokens)."""
    found = []
    with torch.inference_mode():
        for ids in texts:
            before, after = (m(torch.tensor([ids])).logits[0, :-1].double().logsumexp(1) for m in (old, new))
            found.append((float((after - before).sum()), len(before)))
    count = sum(n for _, n in found)
    mean = sum(lost for lost, _ in found) / count
    return mean, sum((lost - mean * n) ** 2 for lost, n in found) ** 0.5 / count, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--extended", required=True, type=Path)
    parser.add_argument("--old", required=True, help="STEM: STEM.train.jsonl, STEM.valid.jsonl")
    parser.add_argument("--documents", type=int, default=61, help="the first ones of each part")
    args = parser.parse_args()
    torch.set_num_threads(1)
    old, new = (load_model(p, device=torch.device("cpu"), dtype=torch.float32) for p in (args.model, args.extended))
    tokenizer = load_tokenizer(args.model)
    start = [tokenizer.bos_token_id]
    for part in ("train", "valid"):
        read = islice(documents(parse_corpus(f"{args.old}.{part}.jsonl")), args.documents)
        texts = [tokenizer(document.text, add_special_tokens=False)["input_ids"] for document in read]
        deep = [start + ids[DEEP : DEEP + 511] for ids in texts if len(ids) > DEEP + 64]
        for name, cut in {
            "first 256, no start": [ids[:256] for ids in texts],
            "the same of 12 documents": [ids[:256] for ids in texts[:12]],
            "first 256": [start + ids[:256] for ids in texts],
            f"511 from {DEEP:,} on": deep,
        }.items():
            mean, error, count = cost(old, new, cut)
            print(f"{part}: {name}: {mean:.5f} +- {error:.5f} ({count:,} tokens)", flush=True)


if __name__ == "__main__":
    main()
