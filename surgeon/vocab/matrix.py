"""The rows of one matrix of the vocabulary: what stays, what an init gives, what pads, and their tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgeon import registry
from surgeon.checkpoint.header import FLOATS, StoredTensor
from surgeon.errors import SurgeonError
from surgeon.ops.plan import Apply, Copy, Piece, Rows, Source, runs
from surgeon.vocab.tokens import NewTokens

if TYPE_CHECKING:
    from torch import Tensor

COMBINE, STORED = "kernel:combine", "kernel:stored"


@dataclass
class Tables:
    """What the kernels read, gathered over all matrices; the sources name the attachment once it is known."""

    tensors: dict[str, Tensor] = field(default_factory=dict)

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        clash = next((name for name in tensors if name in self.tensors), None)
        assert clash is None, clash
        self.tensors |= tensors

    def encode(self) -> tuple[str, bytes]:
        """(name, bytes) of the attachment; the name follows from the content."""
        import hashlib

        from safetensors.torch import save

        # one combination may serve several matrices (a head and its bias), and safetensors refuses shared memory
        held: dict[int, str] = {}
        apart = {
            name: tensor if held.setdefault(tensor.untyped_storage().data_ptr(), name) == name else tensor.clone()
            for name, tensor in sorted(self.tensors.items())
        }
        raw = save(apart)
        return f"rows-{hashlib.sha256(raw).hexdigest()[:8]}.safetensors", raw


def run_init(name: str, options: Mapping[str, Any], supply: Mapping[str, Any], num_old: int) -> Any:
    """What the init gives for `supply`, checked; of one that gives a pair, what it gives for the supplied role."""
    method = registry.get("init", name)
    given = method.call(supply, options)
    if method.trait("PAIRED", False):
        given = given[0 if supply["role"] == "input" else 1]
    return checked(given, len(supply["new"]), num_old, f"init {name!r}")


def checked(given: Any, count: int, num_old: int, where: str) -> Any:
    """`given` if it is a Combination of the hull, or a finite float64 tensor [count, D]; else a refusal."""
    import torch

    from surgeon.vocab.hull import Combination

    if isinstance(given, Combination):
        if len(given) != count:
            raise SurgeonError(f"{len(given)} rows for {count} new tokens", where, "give one row a token")
        given.check(num_old, where)
    elif not isinstance(given, torch.Tensor) or given.ndim != 2 or len(given) != count:
        raise SurgeonError("the init gives neither a Combination nor a tensor [N, D]", where, "give one row a token")
    elif not bool(torch.isfinite(given).all()):
        raise SurgeonError("the init gives values that are not finite", where, "check its options")
    return given


def matrix_source(stored: StoredTensor, new: NewTokens, given: Any, num_rows: int, tables: Tables, key: str) -> Source:
    """Old rows copied, new rows from `given`, rows beyond both the mean of the usable ones. Attachments come later.

    Padding holds the mean and not zeros: a zero row of the output matrix wins wherever all logits are negative.
    """
    from surgeon.vocab.hull import Combination

    if stored.dtype not in FLOATS:
        raise SurgeonError(
            f"{stored.name!r} is stored as {stored.dtype}, in which rows cannot be computed",
            str(stored.path),
            "convert the model to F32, BF16 or F16 first",
        )
    pieces = []
    chosen = set(new.ids)
    kept = [i for i in range(stored.shape[0]) if i not in chosen]
    pieces.append(Piece(runs(kept), Copy("model", stored.name)))
    if new.ids:
        if isinstance(given, Combination):
            tables.add(given.tables(key))
            source = Apply(COMBINE, (Copy("model", stored.name),), {"matrix": key})
        else:
            tables.add({f"{key}.rows": _rounded(given, stored)})
            source = Apply(STORED, (), {"matrix": key})
        pieces.append(Piece(runs(new.ids), source))
    padding = [i for i in range(stored.shape[0], num_rows) if i not in chosen]
    if padding:
        tables.add(mean_rows(new, len(padding)).tables(f"{key}_padding"))
        pad = Apply(COMBINE, (Copy("model", stored.name),), {"matrix": f"{key}_padding"})
        pieces.append(Piece(runs(padding), pad))
    return Rows(tuple(pieces))


def _rounded(given: Tensor, stored: StoredTensor) -> Tensor:
    """Rows in the dtype of the matrix; refuses those that are beyond its range."""
    import torch

    from surgeon.checkpoint.reader import TORCH
    from surgeon.checkpoint.rounding import round_once

    rows = round_once(given, TORCH[stored.dtype]).contiguous()
    if not bool(torch.isfinite(rows).all()):
        raise SurgeonError(
            f"the init gives values up to {float(given.abs().max()):.3g}, which {stored.dtype} cannot hold",
            f"{stored.name!r} of {stored.path}",
            "check the init's options",
        )
    return rows


def mean_rows(new: NewTokens, count: int) -> Any:
    """`count` times the mean of the usable rows, as a Combination."""
    from surgeon.vocab.hull import Combination

    return Combination.of([[]] * count, [1.0] * count, new.usable)


def attached(source: Source, name: str) -> Source:
    """The source with every computed piece reading its tables from the attachment `name`."""
    match source:
        case Rows(pieces):
            return Rows(tuple(Piece(p.ids, attached(p.source, name)) for p in pieces))
        case Apply(method, inputs, options, _):
            return Apply(method, inputs, options, name)
    return source
