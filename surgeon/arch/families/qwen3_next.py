"""Qwen3-Next: linear attention between blocks with full attention, routed experts and a gated shared one."""

from surgeon.arch.declaration import ATTENTION, EXPERTS, GATED_MLP, PRE_NORMS, QK_NORMS, Declaration

FAMILY = Declaration(
    model_type="qwen3_next",
    architectures=("Qwen3NextForCausalLM",),
    parts=ATTENTION
    | QK_NORMS
    | GATED_MLP
    | EXPERTS
    | PRE_NORMS
    | {
        "linear_attn.A_log": "mixer.state",
        "linear_attn.conv1d": "mixer.conv",
        "linear_attn.dt_bias": "mixer.state",
        "linear_attn.in_proj_ba": "mixer.in",
        "linear_attn.in_proj_qkvz": "mixer.in",
        "linear_attn.norm": "norm",
        "linear_attn.out_proj": "mixer.out",
        "mlp.shared_expert.down_proj": "moe.shared.down",
        "mlp.shared_expert.gate_proj": "moe.shared.gate",
        "mlp.shared_expert.up_proj": "moe.shared.up",
        "mlp.shared_expert_gate": "moe.shared.router",
    },
    derived_lists=("layer_types",),
    index_lists=("mlp_only_layers",),
    sparse_step=True,
    plain_shapes=False,
)
