"""What new output rows cost old text, by where in a document it is read, with the error of so few documents.

    python benchmarks/vocab_old_text.py --model BASE --extended FOLDER --old STEM

STEM.train.jsonl is taken to be the probe and STEM.valid.jsonl to be text that nothing was fitted to. Nats a token
in the old encoding; the standard error is that of a ratio of sums over documents: positions of one are alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from surgeon.data.source import documents, parse_corpus
from surgeon.loading import load_model, load_tokenizer
from surgeon.vocab.windows import start_ids

DEEP = 1022  # tokens into a document: the third window of 511


@dataclass(frozen=True)
class Cost:
    """lost: nats a token, and its standard error; kept: the share of positions at which an old token wins."""

    lost: float
    error: float
    kept: float
    tokens: int


def whole(ids: list[int], start: list[int], size: int) -> list[list[int]]:
    """A document in windows of at most `size` tokens, each behind the start: as a probe is read."""
    step = size - len(start)
    return [start + ids[at : at + step] for at in range(0, len(ids), step) if len(start + ids[at : at + step]) > 1]


def cost(old: Any, new: Any, texts: Iterable[list[list[int]]], tokens: int | None = None) -> Cost:
    """Of documents, each a list of windows; of the first `tokens` tokens, rounded up to a window."""
    found: list[tuple[float, int]] = []
    kept = count = 0
    rows = old.get_input_embeddings().weight.shape[0]
    with torch.inference_mode():
        for windows in texts:
            lost, read = 0.0, 0
            for ids in windows:
                before, after = (m(torch.tensor([ids])).logits[0, :-1].double() for m in (old, new))
                lost += float((after.logsumexp(1) - before.logsumexp(1)).sum())
                kept += int((after[:, rows:].amax(1) <= after[:, :rows].amax(1)).sum())
                read += len(before)
                if tokens is not None and count + read >= tokens:
                    break
            found.append((lost, read))
            count += read
            if tokens is not None and count >= tokens:
                break
    mean = sum(lost for lost, _ in found) / count
    error = sum((lost - mean * n) ** 2 for lost, n in found) ** 0.5 / count
    return Cost(mean, error, kept / count, count)


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
    start = start_ids(args.model)
    for part in ("train", "valid"):
        read = islice(documents(parse_corpus(f"{args.old}.{part}.jsonl")), args.documents)
        texts = [tokenizer(document.text, add_special_tokens=False)["input_ids"] for document in read]
        deep = [[start + ids[DEEP : DEEP + 511]] for ids in texts if len(ids) > DEEP + 64]
        for name, cut in {
            "first 256, no start": [[ids[:256]] for ids in texts],
            "first 256": [[start + ids[:256]] for ids in texts],
            f"511 from {DEEP:,} on": deep,
            "whole": [whole(ids, start, 512) for ids in texts],
        }.items():
            of = cost(old, new, cut)
            print(f"{part}: {name}: {of.lost:.5f} +- {of.error:.5f} ({of.tokens:,} tokens)", flush=True)


if __name__ == "__main__":
    main()
