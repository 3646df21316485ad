"""What a selector that probes the model does: read a corpus, run the model on it, rank the blocks, say how sure it is.

Shape suffixes: D documents, L blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from surgeon.arch.family import Family
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import BlockProbe, BlockScore
from surgeon.data.numbers import Count
from surgeon.data.source import Corpus, corpus_digest, parse_corpus
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.bootstrap import bootstrap, first
from surgeon.expand.selection import Selection
from surgeon.loading import Device
from surgeon.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from surgeon.expand.stack import Stack

Positive = Annotated[Count, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
# (stack, ids [rows, tokens], labels [rows, tokens]) -> for every row and block a sum over its scored tokens, and the
# loss of the whole model: float64 [rows, L], [rows]
Measure = Callable[["Stack", "Tensor", "Tensor"], tuple["Tensor", "Tensor"]]


@dataclass(frozen=True)
class Probing:
    """tokens: of the corpus, in whole documents. context: of a window. resamples, level: of the intervals."""

    tokens: int
    context: int
    resamples: int
    level: float
    device: Device


def choose(
    name: str, unit: str, measure: Measure, count: int | None, sign: float, corpus: str | None, probing: Probing,
    checkpoint: Checkpoint, family: Family, seed: int, progress: Progress,
) -> Selection:  # fmt: skip
    """The `count` blocks with the least sign * score, where a block's score is what `measure` gives per token."""
    if count is None:
        raise UsageError(f"the selector {name} needs the number of blocks to add", "--add", "add --add N")
    if count > family.depth:
        raise UsageError(
            f"--add {count} is more than the {family.depth} blocks there are", "--add", f"at most {family.depth}"
        )
    if corpus is None:
        raise UsageError(f"the selector {name} probes the model on a text", "--probe", "add --probe CORPUS")
    held = parse_corpus(corpus, weighted=False)
    sums_DL, tokens_D, loss = _measured(measure, held, probing, checkpoint, family, progress)
    found = bootstrap(sums_DL, tokens_D, count, sign, probing.resamples, probing.level, seed)
    blocks = first(found.scores, count, sign)
    rows = zip(found.scores.tolist(), found.low.tolist(), found.high.tolist(), found.chosen.tolist(), strict=True)
    return Selection(
        blocks,
        BlockProbe(
            selector=name,
            unit=unit,
            corpus=held.name,
            corpus_digest=corpus_digest(held),
            documents=len(tokens_D),
            tokens=int(tokens_D.sum()),
            loss=loss,
            level=probing.level,
            resamples=probing.resamples,
            scores=[
                BlockScore(block=block, score=score, low=low, high=high, chosen=round(share, 6))
                for block, (score, low, high, share) in enumerate(rows)
            ],
        ),
    )


def _measured(
    measure: Measure, corpus: Corpus, probing: Probing, checkpoint: Checkpoint, family: Family, progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """(sums [D, L], tokens [D], loss in nats a token) on the documents of the corpus that are read."""
    import torch

    from surgeon.data.items import groups, padded, prepare, take, windows
    from surgeon.expand.stack import Stack
    from surgeon.loading import LOGIT_BUDGET, context_length, load_model, load_tokenizer, resolve_device

    device = resolve_device(probing.device)
    tokenizer = load_tokenizer(checkpoint.path)
    items = [i for i in prepare(take(corpus, tokenizer, probing.tokens), tokenizer) if i.num_tokens]
    if len(items) < 2:
        raise SurgeonError(
            f"the probe holds {len(items)} document(s): intervals come from drawing documents anew",
            str(corpus.path),
            "give a corpus of more documents",
        )
    model = load_model(checkpoint.path, device=device, dtype=torch.float32)
    stack = Stack(model, family)
    length = min(probing.context, context_length(model) or probing.context)
    budget = LOGIT_BUDGET[device.type] // model.get_input_embeddings().weight.shape[0]
    sums_DL = np.zeros((len(items), family.depth))
    nats, tokens_D = 0.0, np.array([float(i.num_tokens) for i in items])
    with progress.task("probing blocks", int(tokens_D.sum()), "tokens") as advance:
        for group in groups(windows(items, length), budget):
            ids, labels = (torch.from_numpy(part).to(device) for part in padded(group))
            sums, whole = measure(stack, ids, labels)
            for row, window in enumerate(group):
                sums_DL[window.item] += sums[row].cpu().numpy()
            nats += float(whole.sum())
            advance(int((labels >= 0).sum()))
    if not np.isfinite(sums_DL).all() or not np.isfinite(nats):
        raise SurgeonError(
            "what the model gives on the probe is not a number",
            str(checkpoint.path),
            "`surgeon inspect` names tensors that hold NaN or infinity",
        )
    return sums_DL, tokens_D, nats / float(tokens_D.sum())
