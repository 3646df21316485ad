"""hull_weights.safetensors: the weights of the new rows over old rows, beside the model, for anyone to recompute them.

The lineage's own tables (float64, under surgeon/) are what the rows were made from. This file holds the same weights
rounded once to float32, in plain rectangular form, and travels no further than the extension's own output.

Shape suffixes: N new rows, K the most terms of a row, R runs of ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import SurgeonError

if TYPE_CHECKING:
    from torch import Tensor

    from surgeon.vocab.hull import Combination

HULL_FILE = "hull_weights.safetensors"
MATRICES = "matrices"  # the one key of the file's metadata: JSON of {"input" or "output": name of the tensor}
EMPTY = -1


@dataclass(frozen=True)
class HullFile:
    """ids: int64 [N], the new rows. matrices: tensor name -> its weights, float32 ones widened to float64."""

    ids: Tensor
    matrices: dict[str, Combination]


def encode_hull(given: Mapping[str, Any], ids: Sequence[int]) -> bytes | None:
    """The file's bytes, or None where no matrix has convex rows.

    given: by tensor name in the order input, output (one name where they are tied: it is called `input`); only those
    that are a Combination go in. `{role}.indices` int32 [N, K] (padded with -1), `{role}.weights` float32 [N, K]
    (padded with 0), and where rows hold a share of a mean `{role}.mean_weight` float32 [N] with `{role}.mean_ids`
    int64 [R, 2], half-open runs of the old ids that the mean ranges over. `ids` int64 [N].
    """
    import torch

    from surgeon.checkpoint.header import encode_header
    from surgeon.checkpoint.reader import CODE, to_bytes
    from surgeon.vocab.hull import Combination

    names: dict[str, str] = {}
    tensors: dict[str, Tensor] = {"ids": torch.tensor(ids, dtype=torch.int64)}
    for role, (name, combination) in zip(("input", "output"), given.items(), strict=False):
        if isinstance(combination, Combination):
            names[role] = name
            tensors |= {f"{role}.{key}": value for key, value in rectangular(combination).items()}
    if not names:
        return None
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # wide ones first: aligned
    header = encode_header(
        [(name, CODE[t.dtype], tuple(t.shape)) for name, t in ordered], {MATRICES: json.dumps(names)}
    )
    return b"".join([header, *(bytes(to_bytes(t)) for _, t in ordered)])


def rectangular(combination: Combination) -> dict[str, Tensor]:
    """The tensors of one matrix, without the role; weights rounded once to float32."""
    import torch

    lengths = combination.offsets[1:] - combination.offsets[:-1]
    width = int(lengths.max()) if len(lengths) else 0
    used_NK = torch.arange(width)[None, :] < lengths[:, None]
    indices_NK = torch.full(used_NK.shape, EMPTY, dtype=torch.int32)
    weights_NK = torch.zeros(used_NK.shape, dtype=torch.float32)
    indices_NK[used_NK] = combination.indices.to(torch.int32)
    weights_NK[used_NK] = combination.weights.to(torch.float32)
    found = {"indices": indices_NK, "weights": weights_NK}
    if combination.mean_weights is not None and combination.mean_ids is not None:
        found |= {"mean_weight": combination.mean_weights.to(torch.float32), "mean_ids": combination.mean_ids}
    return found


def read_hull(path: Path) -> HullFile:
    """The inverse of `encode_hull`, with the same order of terms. Raises SurgeonError on a file that is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as held:
            tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - it is no mapping
            names = json.loads((held.metadata() or {})[MATRICES])
        return HullFile(tensors["ids"], {name: _combination(tensors, role) for role, name in names.items()})
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise SurgeonError(
            f"the weights of the new rows cannot be read: {error}", str(path), "restore the file"
        ) from error


def _combination(tensors: Mapping[str, Tensor], role: str) -> Combination:
    import torch

    from surgeon.vocab.hull import Combination

    indices_NK, weights_NK = tensors[f"{role}.indices"], tensors[f"{role}.weights"]
    used_NK = indices_NK != EMPTY
    if indices_NK.shape != weights_NK.shape or bool((weights_NK[~used_NK] != 0).any()):
        raise ValueError(f"{role}: a weight without an index")
    mean = tensors.get(f"{role}.mean_weight")
    return Combination(
        torch.cat([torch.zeros(1, dtype=torch.int64), used_NK.sum(1).cumsum(0)]),
        indices_NK[used_NK].to(torch.int64),
        weights_NK[used_NK].to(torch.float64),
        None if mean is None else mean.to(torch.float64),
        None if mean is None else tensors[f"{role}.mean_ids"],
    )
