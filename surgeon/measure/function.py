"""Whether two checkpoints compute the same function: logits on a probe, and greedy generation with the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import Tensor

Probe: TypeAlias = Sequence[str] | Sequence[Sequence[int]]
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Comparison:
    """In one dtype. equal: every logit has the same bits (torch.equal). max_abs_difference: of the logits, computed
    in float64. columns: logits compared per position (the smaller vocabulary where the two differ)."""

    equal: bool
    max_abs_difference: float
    same_generation: bool
    columns: int


@dataclass(frozen=True)
class FunctionReport:
    """documents and positions (tokens) of the probe; one comparison for each dtype by name."""

    documents: int
    positions: int
    dtypes: dict[str, Comparison]

    @property
    def holds(self) -> bool:
        """The logits are bit-identical and the generated tokens the same, in every dtype."""
        return all(c.equal and c.same_generation for c in self.dtypes.values())

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}


def same_function(
    a: Path,
    b: Path,
    probe: Probe,
    dtypes: Sequence[str] = DTYPES,
    *,
    documents: int = 8,
    tokens: int = 128,
    generate: int = 16,
    progress: Progress = SILENT,
) -> FunctionReport:
    """Compare two checkpoints in transformers on the CPU.

    probe: texts (encoded with the tokenizer of `a`) or token ids; the first `documents` that are not empty,
    `tokens` tokens of each. One model is in memory at a time. Raises SurgeonError where a checkpoint lacks tensors
    or the probe is empty.
    """
    ids = _ids(a, probe, documents, tokens)
    compared: dict[str, Comparison] = {}
    with progress.task("comparing functions", 2 * len(dtypes), "models") as advance:
        for dtype in dtypes:
            logits_a, generated_a = _outputs(a, ids, dtype, generate)
            advance(1)
            logits_b, generated_b = _outputs(b, ids, dtype, generate)
            advance(1)
            compared[dtype] = _compare(logits_a, logits_b, generated_a == generated_b)
    return FunctionReport(len(ids), sum(map(len, ids)), compared)


def _ids(a: Path, probe: Probe, documents: int, tokens: int) -> list[list[int]]:
    chosen = [entry for entry in probe if len(entry)][:documents]
    found = [list(entry)[:tokens] for entry in chosen if not isinstance(entry, str)]
    texts = [entry for entry in chosen if isinstance(entry, str)]
    if texts:
        from surgeon.loading import load_tokenizer

        tokenizer = load_tokenizer(a)
        found += [tokenizer(text)["input_ids"][:tokens] for text in texts]
    if not found:
        raise SurgeonError("the probe holds no tokens", str(a), "give a corpus with text")
    return found


def _outputs(path: Path, ids: list[list[int]], dtype: str, generate: int) -> tuple[list[Tensor], list[list[int]]]:
    """Logits [positions, rows] of each document in `dtype`, and the tokens generated greedily after each."""
    import torch

    from surgeon.loading import load_model

    model = load_model(path, device=torch.device("cpu"), dtype=getattr(torch, dtype))
    logits, generated = [], []
    with torch.inference_mode():
        for document in ids:
            batch = torch.tensor([document])
            logits.append(model(batch).logits[0])
            if generate:
                mask = torch.ones_like(batch)
                out = model.generate(
                    batch, attention_mask=mask, max_new_tokens=generate, do_sample=False, use_cache=True
                )
                generated.append(out[0, len(document) :].tolist())
    return logits, generated


def _compare(a: list[Tensor], b: list[Tensor], same_generation: bool) -> Comparison:
    import torch

    columns = min(a[0].shape[-1], b[0].shape[-1])
    pairs = [(x[:, :columns], y[:, :columns]) for x, y in zip(a, b, strict=True)]
    return Comparison(
        equal=all(torch.equal(x, y) for x, y in pairs),
        max_abs_difference=max(float((x.double() - y.double()).abs().max()) for x, y in pairs),
        same_generation=same_generation,
        columns=columns,
    )
