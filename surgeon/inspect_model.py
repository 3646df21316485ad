"""What a checkpoint is: architecture, sizes by role, vocabulary, lineage, and what looks wrong in its tensors."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from surgeon.arch.family import Family, family_of
from surgeon.arch.parameters import parameters
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.new_blocks import new_blocks
from surgeon.errors import SurgeonError
from surgeon.measure.scan import scan
from surgeon.progress import SILENT, Progress


def inspect(checkpoint: Checkpoint, *, deep: bool = True, progress: Progress = SILENT) -> dict[str, Any]:
    """The JSON object of `surgeon inspect`.

    parameters: stored elements (a tied matrix once), in total and by role. vocab: token ids that the tokenizer
    gives, None without tokenizer.json. rows: of the embedding. dtypes: safetensors code -> parameters. bytes: of
    the tensors. deep: read every tensor (in pieces) for the warnings; otherwise only headers are read.
    context: the longest text in tokens and the rotary parameters, None where transformers does not read config.json.
    """
    family = family_of(checkpoint)
    by_role: dict[str, int] = defaultdict(int)
    dtypes: dict[str, int] = defaultdict(int)
    for stored in parameters(checkpoint, family):
        by_role[family.role(stored.name)] += math.prod(stored.shape)
        dtypes[stored.dtype] += math.prod(stored.shape)
    ids = token_ids(checkpoint.path)
    architectures = checkpoint.config.get("architectures") or [None]
    return {
        "architecture": architectures[0],
        "model_type": family.model_type,
        "blocks": family.depth,
        "new_blocks": list(new_blocks(checkpoint.lineage, every=True)),
        "parameters": {"total": sum(by_role.values()), "by_role": dict(sorted(by_role.items()))},
        "vocab": None if ids is None else len(ids),
        "rows": checkpoint.tensor(family.embedding).shape[0],
        "tied": family.tied,
        "context": _context(checkpoint),
        "dtypes": dict(sorted(dtypes.items())),
        "shards": len(checkpoint.shards),
        "bytes": checkpoint.num_bytes,
        "lineage": lineage_tree(checkpoint.lineage) if checkpoint.lineage else None,
        "warnings": _warnings(checkpoint, family, ids, progress) if deep else [],
    }


def _context(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """{"length": tokens, "rope": kind of block -> rotary parameters, None for other positions}; None where
    transformers does not read the configuration, which is no reason not to look at the weights."""
    from surgeon.arch.positions import read_positions

    try:
        return read_positions(checkpoint.config, str(checkpoint.path)).to_json()
    except SurgeonError:
        return None


def token_ids(folder: Path) -> frozenset[int] | None:
    """The ids that the tokenizer gives (added tokens included), which may leave some out; None where there is no
    tokenizer.json."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for a file it cannot read
        raise SurgeonError(
            f"tokenizer.json cannot be read: {error}", str(path), "restore the file from the model's source"
        ) from error
    return frozenset(tokenizer.get_vocab(with_added_tokens=True).values())


def lineage_tree(lineage: Lineage) -> dict[str, Any]:
    """Operation, kind and settings, with the parents (role, name, digest) and theirs below."""
    return {
        "operation": lineage.operation,
        "kind": lineage.kind,
        "settings": lineage.settings,
        "parents": [
            {
                "role": parent.role,
                "name": parent.name,
                "digest": parent.digest,
                "lineage": lineage_tree(parent.lineage) if parent.lineage else None,
            }
            for parent in lineage.parents
        ],
    }


def _warnings(
    checkpoint: Checkpoint, family: Family, ids: frozenset[int] | None, progress: Progress
) -> list[dict[str, Any]]:
    """Findings of every tensor; zeros that an expansion planned, and padding rows without a token, are no findings."""
    lineage = checkpoint.lineage
    untrained = lineage is not None and all(entry.kind == "surgery" for entry in lineage.chain())
    new = list(new_blocks(lineage, every=True)) if untrained else []
    found: list[dict[str, Any]] = []
    with progress.task("reading tensors", checkpoint.num_bytes, "bytes") as advance:
        for name, stored in checkpoint.tensors.items():
            role, unit = family.role(name), family.unit(name)
            # biases are often zero from the start; what silences a new block is zero until it is trained
            silent = family.is_residual_writer(unit.part) or unit.part in family.post_norms
            # of a family that nobody declared an expansion may have silenced any norm
            silent |= family.declaration.derived and role == "norm"
            if role != "buffer":
                found += scan(
                    stored,
                    vocabulary=role in ("embedding", "head") and len(stored.shape) == 2,
                    rows_in_use=ids,
                    zero_expected=unit.leaf == "bias" or (silent and unit.block in new),
                )
            advance(stored.nbytes)
    return found
