"""config.json after the blocks have been put in another order or some of them have been copied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from surgeon.arch.configuration import settings_of
from surgeon.arch.derived_lists import derived_list
from surgeon.arch.family import Family
from surgeon.errors import SurgeonError

# lists with one entry per block, in any of the families
PER_BLOCK = ("layer_types", "no_rope_layers", "mlp_layer_types", "layers_block_type")
# lists that may happen to be as long as the model is deep and say nothing of blocks
NOT_PER_BLOCK = (
    "architectures", "eos_token_id", "bos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens",
    "forced_decoder_ids", "bad_words_ids", "keys_to_ignore_at_inference", "time_step_limit",
)  # fmt: skip


def remap_blocks(config: Mapping[str, Any], source: Sequence[int], family: Family) -> dict[str, Any]:
    """The configuration of a model whose block i is a copy of block source[i] of the one that `config` describes.

    Per-block lists follow their blocks, lists of block numbers and numbers of leading blocks are counted anew, and
    rules by period become explicit lists. Raises SurgeonError where a block depends on its number in a way that
    no configuration can express for the new order.
    """
    old, new = family.depth, len(source)
    if list(source) == list(range(old)):
        return dict(config)
    if not source or any(not 0 <= block < old for block in source):
        raise SurgeonError("a block outside the model is named", f"{list(source)} of {old} blocks", "report this")
    declared = family.declaration
    _refuse(config, family)
    result = _with_derived_lists(config, family)
    for key, value in list(result.items()):
        if not isinstance(value, list) or key in declared.index_lists or key in NOT_PER_BLOCK:
            continue
        if key in PER_BLOCK or key in declared.derived_lists:
            if len(value) != old:
                raise SurgeonError(
                    f"{key} has {len(value)} entries for {old} blocks", f"config.json: {key}", "restore config.json"
                )
            result[key] = [value[block] for block in source]
        elif len(value) == old:
            raise SurgeonError(
                f"the list {key!r} has one entry per block and is not known to follow the blocks",
                f"config.json: {key}",
                f"remove it if the model does not read it; known are {', '.join(PER_BLOCK)}",
            )
    if declared.sparse_step:
        _explicit_dense_blocks(result, old)
    for key in declared.index_lists:
        if result.get(key):
            result[key] = [i for i, block in enumerate(source) if block in result[key]]
    for key, instead in declared.boundaries.items():
        if result.get(key) is not None:
            result[key] = _boundary(key, result[key], source, old, instead, result)
    for key in declared.last_blocks:
        if result.get(key, -1) != -1:
            result[key] = _boundary(key, result[key] + 1, source, old, "", result) - 1
    for key in declared.depth_scales:
        if result.get(key) is not None:
            result[key] = _depth_scale(result[key], old, new)
    if isinstance(result.get("per_layer_config"), dict):
        entries = {int(key): value for key, value in result["per_layer_config"].items()}
        result["per_layer_config"] = {str(i): entries[block] for i, block in enumerate(source) if block in entries}
    result[family.depth_key] = new
    return result


def _refuse(config: Mapping[str, Any], family: Family) -> None:
    """Refuse a configuration under which a block computes something else at another place."""
    declared = family.declaration
    reasons = [(key, reason) for key, reason in declared.refuse_if.items() if config.get(key)]
    reasons += [
        (key, reason)
        for key, (value, reason) in declared.refuse_unless.items()
        if config.get(key, value) not in (value, None)
    ]
    for key, reason in reasons:
        raise SurgeonError(f"blocks cannot be copied: {reason}", f"config.json: {key}", "use a model without it")


def _with_derived_lists(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """`config` with the per-block lists that its class would derive from the block numbers written out."""
    # what the class would take of itself is as much the model's as what is written down, and follows its blocks too
    result = dict(config) | {k: v for k, v in family.declaration.defaults.items() if k not in config}
    for key in family.declaration.derived_lists:
        if result.get(key) is None:
            derived = derived_list(family.model_type, key, config, family.depth)
            if derived is not None:
                result[key] = derived
    # an empty list is one that a class may fill (no_rope_layers of Llama 4); of block numbers it says: none
    absent = [
        key
        for key in family.declaration.derived_lists
        if result.get(key) is None or (result[key] == [] and key not in family.declaration.index_lists)
    ]
    if absent:
        settings = settings_of(config)
        for key in absent:
            result[key] = list(getattr(settings, key))
    return result


def _explicit_dense_blocks(result: dict[str, Any], depth: int) -> None:
    """Name the dense blocks one by one instead of by "experts in every n-th block"; in place."""
    step = result.get("decoder_sparse_step", 1)
    dense = set(result.get("mlp_only_layers") or ())
    result["mlp_only_layers"] = [i for i in range(depth) if i in dense or (i + 1) % step]
    result["decoder_sparse_step"] = 1


def _depth_scale(value: float, old: int, new: int) -> float:
    """What, divided by the root of the new depth, is `value` divided by the root of the old one, to the last bit
    where a float64 is."""
    wanted = value / math.sqrt(old)
    near = wanted * math.sqrt(new)
    around = [near, *(math.nextafter(near, side) for side in (-math.inf, math.inf))]
    return next((scale for scale in around if scale / math.sqrt(new) == wanted), near)


def _boundary(key: str, value: int, source: Sequence[int], old: int, instead: str, config: Mapping[str, Any]) -> int:
    """How many leading blocks of the new order lie before the boundary."""
    if value >= old:
        return value + len(source) - old
    before = [block < value for block in source]
    count = sum(before)
    if not all(before[:count]) and config.get(instead) is None:
        raise SurgeonError(
            f"{key} = {value} cannot be expressed: blocks from both sides of it would alternate",
            f"config.json: {key}",
            "choose blocks on one side of it, or the layout interleave",
        )
    return count
