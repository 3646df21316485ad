"""What new vocabulary rows do to old text: whole forward passes of the model before and after the extension.

T1: a row in the convex hull of the old ones has a logit between theirs for every hidden state, so it never wins.
T2: with c_i the weight of old row i in all new rows together, sum_j exp(l'_j) <= sum_i c_i exp(l_i), so a position
loses at most log(1 + sum_i c_i p_i) <= log(1 + max_i c_i) nats. Not under a soft cap of the logits (Gemma 2): exp of
it is not convex, and half of a logit of 1000 is as much as the whole of it at a cap of 30.
Source: Hewitt 2021 (uniform weights); Constrained Word2Vec (arXiv 2407.05841), section 3. Both are exact arithmetic:
stored rows are rounded, so a row that stands next to an old one may pass it by a rounding, and that counts here.

Shape suffixes: T positions, V columns of logits.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress
from surgeon.vocab.certificate import Extension

if TYPE_CHECKING:
    from torch import Tensor

TOKENS, PROMPT, CONTINUE = 512, 32, 32  # of a document, of a prompt, after it
_LOGITS = 1 << 28  # elements of the parent's logits that are kept: 1 GiB


@dataclass(frozen=True)
class OldText:
    """Float32 on the CPU. documents, positions: of the text, in old ids. columns: old ids that stay old.

    equal: their logits have the same bits; apart: the largest difference in one product over all rows (0: the same
    bits there too). wins: positions at which a new row is strictly above the best old one; margin: best old logit
    minus best new one, the least over positions. loss, most: nats that an old token loses, the mean over positions
    and the largest. bound: log(1 + the largest column sum), None where output rows are not convex or logits are
    capped. convex, capped: whether they are. same_text: of `prompts` greedy continuations of CONTINUE tokens, how many
    are the parent's; untold: further ones, in which the parent says padding rows that new tokens have taken over.
    """

    documents: int
    positions: int
    columns: int
    equal: bool
    apart: float
    wins: int
    margin: float
    loss: float
    most: float
    convex: bool
    capped: bool
    column_sum: float | None
    bound: float | None
    prompts: int
    untold: int
    same_text: int


def old_text(parent: Path, out: Path, texts: Sequence[str], progress: Progress = SILENT) -> OldText:
    """Measure an output of extend-vocab against the model it was made from, on texts in the parent's ids.

    One model is in memory at a time. Raises SurgeonError where the texts hold no two tokens, or a model does not
    load.
    """
    import torch

    from surgeon.loading import context_length

    extension = Extension(Checkpoint.open(out))
    added = {row.id for row in extension.rows.new}
    kept = [i for i in range(extension.rows.old) if i not in added]
    documents = _ids(parent, texts, extension.rows.old)
    with progress.task("old text under both models", 2 * len(documents), "documents") as advance:
        model = _load(parent)
        context = context_length(model) or TOKENS
        capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None) is not None
        documents = [ids[:context] for ids in documents]
        prompts = [ids[: max(1, min(PROMPT, context - CONTINUE))] for ids in documents]
        before: list[Tensor] = []
        for ids in documents:
            before.append(_logits(model, ids))
            advance(1)
        said = [(prompt, _greedy(model, prompt)) for prompt in prompts]
        told = [(prompt, found) for prompt, found in said if not added.intersection(found)]
        del model
        model = _load(out)
        sums = _Sums(kept)
        for ids, logits_TV in zip(documents, before, strict=True):
            sums.add(ids, logits_TV, _logits(model, ids))
            advance(1)
        same_text = sum(_greedy(model, prompt) == found for prompt, found in told)
        equal = sums.equal
        if not equal:  # a product over another number of rows may add in another order: take it over the old ones
            _cut_head(model, extension.rows.old)
            equal = all(
                torch.equal(_logits(model, ids)[:, kept], logits_TV[:, kept])
                for ids, logits_TV in zip(documents, before, strict=True)
            )
    head = _head(extension.checkpoint)
    convex = extension.all_convex(head)
    column_sum = float(extension.column_sums(head).max()) if convex and not capped else None
    return OldText(
        documents=len(documents),
        positions=sum(map(len, documents)),
        columns=len(kept),
        equal=equal,
        apart=sums.apart,
        wins=sums.wins,
        margin=sums.margin,
        loss=math.fsum(sums.losses) / len(sums.losses),
        most=max(sums.losses),
        convex=convex,
        capped=capped,
        column_sum=column_sum,
        bound=None if column_sum is None else math.log1p(column_sum),
        prompts=len(told),
        untold=len(said) - len(told),
        same_text=same_text,
    )


class _Sums:
    """What is gathered over documents; see OldText."""

    def __init__(self, kept: Sequence[int]) -> None:
        self.kept = kept
        self.equal, self.apart, self.wins, self.margin = True, 0.0, 0, math.inf
        self.losses: list[float] = []

    def add(self, ids: Sequence[int], before_TV: Tensor, after_TV: Tensor) -> None:
        import torch

        old = torch.tensor(self.kept)
        is_new = torch.ones(after_TV.shape[1], dtype=torch.bool)
        is_new[old] = False
        left, right = before_TV[:, old], after_TV[:, old]
        self.equal &= torch.equal(left, right)
        self.apart = max(self.apart, float((left.double() - right.double()).abs().max()))
        margins_T = right.max(1).values.double() - after_TV[:, is_new].max(1).values.double()
        self.wins += int((~(margins_T >= 0)).sum())  # also what is not a number
        self.margin = min(self.margin, float(margins_T.min()))
        targets = torch.tensor(ids[1:])
        nats = [_nats(logits, targets) for logits in (before_TV, after_TV)]
        self.losses += (nats[1] - nats[0]).tolist()


def _nats(logits_TV: Tensor, targets: Tensor) -> Tensor:
    """-log p of each next token, float64 [T - 1]."""
    wide = logits_TV[:-1].double()
    return wide.logsumexp(1) - wide.gather(1, targets[:, None])[:, 0]


def _ids(parent: Path, texts: Sequence[str], num_rows: int) -> list[list[int]]:
    from surgeon.loading import load_tokenizer

    tokenizer = load_tokenizer(parent)
    length = min(TOKENS, max(2, _LOGITS // (num_rows * max(len(texts), 1))))
    found = [tokenizer(text)["input_ids"][:length] for text in texts]
    documents = [ids for ids in found if len(ids) > 1]
    if not documents:
        raise SurgeonError("the texts hold no two tokens", str(parent), "give a corpus with text")
    return documents


def _load(path: Path) -> Any:
    import torch

    from surgeon.loading import load_model

    return load_model(path, device=torch.device("cpu"), dtype=torch.float32)


def _logits(model: Any, ids: Sequence[int]) -> Tensor:
    """float32 [T, V]."""
    import torch

    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits.float()


def _greedy(model: Any, prompt: Sequence[int]) -> list[int]:
    """CONTINUE tokens, each the first of the highest; nothing of a generation config, which may not be monotone."""
    import torch

    # releases of transformers call it by either word, and warn of the other one
    word = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    found: list[int] = []
    step, cache = torch.tensor([list(prompt)]), None
    with torch.inference_mode():
        for _ in range(CONTINUE):
            out = model(step, use_cache=True, **{word: cache})
            cache = getattr(out, word)
            found.append(int(out.logits[0, -1].argmax()))
            step = torch.tensor([found[-1:]])
    return found


def _cut_head(model: Any, rows: int) -> None:
    """The output matrix without the rows from `rows` on."""
    import torch

    head = model.get_output_embeddings()
    cut = torch.nn.Linear(head.in_features, rows, bias=head.bias is not None)
    cut.weight = torch.nn.Parameter(head.weight[:rows].detach().clone())
    if head.bias is not None:
        cut.bias = torch.nn.Parameter(head.bias[:rows].detach().clone())
    model.set_output_embeddings(cut.eval())


def _head(checkpoint: Checkpoint) -> str:
    from surgeon.arch.family import family_of

    family = family_of(checkpoint)
    return family.embedding if family.head is None or family.tied else family.head
