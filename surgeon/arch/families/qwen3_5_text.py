"""Qwen 3.5, text models, dense: linear attention between blocks with full attention."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, QK_NORMS, Declaration

FAMILY = Declaration(
    model_type="qwen3_5_text",
    architectures=("Qwen3_5ForCausalLM",),
    parts=ATTENTION
    | QK_NORMS
    | GATED_MLP
    | PRE_NORMS
    | {
        "linear_attn.A_log": "mixer.state",
        "linear_attn.conv1d": "mixer.conv",
        "linear_attn.dt_bias": "mixer.state",
        "linear_attn.in_proj_a": "mixer.in",
        "linear_attn.in_proj_b": "mixer.in",
        "linear_attn.in_proj_qkv": "mixer.in",
        "linear_attn.in_proj_z": "mixer.in",
        "linear_attn.norm": "norm",
        "linear_attn.out_proj": "mixer.out",
    },
    derived_lists=("layer_types",),
    plain_shapes=False,
)
