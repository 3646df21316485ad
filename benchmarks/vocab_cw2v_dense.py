"""`cw2v` against `cw2v_dense` on the same pairs, epoch by epoch."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

from vocab_cw2v_clock import Clock, Counted
from vocab_cw2v_text import texts_of, tokens_of


class Fixed:
    """Learned rows that stand."""

    def __init__(self, rows: Any) -> None:
        self.values = rows

    def rows(self, which: Any, run: Any) -> Any:
        return self.values[which]


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
