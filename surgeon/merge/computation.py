"""Whether models of one kind compute in one way: equal shapes say nothing of heads, rotary bases or windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.merge.ancestry import Member

# of config.json; epsilons are left out, as releases of one model differ in them and nothing is learned by them
KEYS = (
    "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "hidden_activation", "activation_function",
    "sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar",
    "attention_multiplier", "residual_multiplier", "embedding_multiplier", "logits_scaling", "logit_scale",
    "num_experts_per_tok", "norm_topk_prob", "routed_scaling_factor", "use_parallel_residual",
)  # fmt: skip
BY_BLOCK = ("layer_types", "no_rope_layers")
ROPE = "rope_parameters"
_SPELLED = (
    *KEYS, *BY_BLOCK, ROPE, "rope_theta", "rope_scaling", "rotary_emb_base", "rope_local_base_freq", "rotary_pct",
    "global_rope_theta", "local_rope_theta", "partial_rotary_factor", "use_sliding_window", "max_window_layers",
    "sliding_window_pattern", "no_rope_layer_interval", "text_config",
)  # fmt: skip


def check_computation(base: Member, target: Member, members: Sequence[Member]) -> None:
    """Refuse a model that computes in another way than the base where the output, with the configuration of the
    target, would not compute in its way. Raises SurgeonError."""
    for member in members:
        if differing(base, member):
            found = differing(target, member)
            if found:
                raise _refusal(target, member, found)


def check_one_computation(first: Member, member: Member) -> None:
    """Refuse models that compute in different ways. Raises SurgeonError."""
    found = differing(first, member)
    if found:
        raise _refusal(first, member, found)


def differing(one: Member, other: Member) -> dict[str, tuple[Any, Any]]:
    """Key -> its two values, where they are not the same; as transformers reads them where they are spelled apart."""
    here, there = one.checkpoint.config, other.checkpoint.config
    apart = set() if one.family.depth == other.family.depth else set(BY_BLOCK)  # of one depth only
    if all(here.get(key) == there.get(key) for key in _SPELLED if key not in apart):
        return {}
    left, right = (_read(m.checkpoint.config, f"{m.checkpoint.path}/config.json") for m in (one, other))
    keys = left.keys() - apart
    return {key: (left[key], right[key]) for key in sorted(keys) if left[key] != right[key]}


def _read(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    from surgeon.arch.configuration import settings_of
    from surgeon.arch.positions import read_positions
    from surgeon.loading import quiet

    rope = read_positions(config, where).rope  # which says so where transformers does not read it
    with quiet():
        text = settings_of(config).get_text_config()
    found = {key: getattr(text, key, None) for key in (*KEYS, *BY_BLOCK)}
    return found | {ROPE: {kind: dict(entry) for kind, entry in rope.items()}}


def _refusal(one: Member, other: Member, found: Mapping[str, tuple[Any, Any]]) -> SurgeonError:
    said = "; ".join(f"{key} is {here} in {one.name}, {there} in {other.name}" for key, (here, there) in found.items())
    return SurgeonError(
        f"{one.name} and {other.name} compute in different ways: {said}",
        f"{other.checkpoint.path}/config.json",
        f"bring {one.name} to the same positions first: surgeon extend-context"
        if list(found) == [ROPE]
        else "merge models whose config.json says the same of these",
    )
