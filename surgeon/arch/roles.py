"""The role of a part of a block by the names that models of transformers give it."""

from __future__ import annotations

# the last name of a module whose output is added to the residual stream; also without a leaf, and as `..._bias`
WRITERS = (
    "o_proj", "down_proj", "out_proj", "c_proj", "dense", "dense_4h_to_h", "fc2", "fc_out", "w2", "wo", "Wo",
    "output_linear", "linear_out", "proj_down",
)  # fmt: skip
_LAST = {
    "q_proj": "attention.q",
    "k_proj": "attention.k",
    "v_proj": "attention.v",
    "qkv_proj": "attention.qkv",
    "query_key_value": "attention.qkv",
    "c_attn": "attention.qkv",
    "Wqkv": "attention.qkv",
    "gate_proj": "mlp.gate",
    "up_proj": "mlp.up",
    "gate_up_proj": "mlp.gate_up",
    "c_fc": "mlp.up",
    "dense_h_to_4h": "mlp.up",
    "fc1": "mlp.up",
    "fc_in": "mlp.up",
    "w1": "mlp.gate",
    "w3": "mlp.up",
    "input_linear": "mlp.gate_up",
}
# names that say what they are wherever they stand
_ANYWHERE = {
    "q_a_proj": "attention.q_a",
    "q_b_proj": "attention.q_b",
    "kv_a_proj_with_mqa": "attention.kv_a",
    "kv_b_proj": "attention.kv_b",
    "sinks": "attention.sinks",
    "A_log": "mixer.state",
    "D": "mixer.state",
    "dt_bias": "mixer.state",
    "in_proj_qkvz": "mixer.in",
    "in_proj_ba": "mixer.in",
    "in_proj_qkv": "mixer.in",
    "in_proj_z": "mixer.in",
    "in_proj_a": "mixer.in",
    "in_proj_b": "mixer.in",
    "shared_expert_gate": "moe.shared.router",
    "e_score_correction_bias": "moe.router",
}
_MIXERS = ("mamba", "mixer", "conv", "short_conv", "linear_attn", "temporal_block", "delta", "ssm", "mlstm_layer")


def role_by_name(part: str) -> str:
    """The role of `part` ("mlp.experts.{n}.down_proj", "self_attn.sinks"); "other" where the name says nothing."""
    path = part.split(".")
    last = path[-1].removesuffix("_bias")
    inside = path[:-1]
    attention = any("attn" in name or "attention" in name for name in inside) and not _is_mixer(inside)
    routed = any(name.startswith("expert") for name in inside) or "block_sparse_moe" in inside
    shared = any("shared" in name for name in inside)
    if "norm" in last or last.startswith("ln") or inside[-1:] == ["norms"]:
        return "norm"
    if path[-1] in _ANYWHERE:
        return _ANYWHERE[path[-1]]
    if last in ("router", "gate") or (inside and inside[-1] in ("router", "gate")):
        return "other" if shared else "moe.router"
    if last in WRITERS:
        if attention:
            return "attention.o"
        if _is_mixer(inside) and not routed and not shared:
            return "mixer.out"
        return "moe.shared.down" if shared else "moe.expert.down" if routed else "mlp.down"
    if _is_mixer(inside) and not routed and not shared:
        return {"in_proj": "mixer.in", "conv1d": "mixer.conv", "conv": "mixer.conv"}.get(last, "other")
    role = _LAST.get(last, "other")
    if attention:
        return role if role.startswith("attention.") else "other"
    if role.startswith("mlp."):
        return (
            role.replace("mlp.", "moe.shared.") if shared else role.replace("mlp.", "moe.expert.") if routed else role
        )
    return role if inside and inside[-1] in ("norm_attn_norm",) else "other"


def _is_mixer(path: list[str]) -> bool:
    return bool(path) and any(name in path[0] for name in _MIXERS)
