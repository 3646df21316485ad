"""Qwen 1.5 and 2 with experts: routed ones and a gated shared one."""

from surgeon.arch.declaration import ATTENTION, EXPERTS, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="qwen2_moe",
    architectures=("Qwen2MoeForCausalLM",),
    parts=ATTENTION
    | GATED_MLP
    | EXPERTS
    | PRE_NORMS
    | {
        "mlp.shared_expert.down_proj": "moe.shared.down",
        "mlp.shared_expert.gate_proj": "moe.shared.gate",
        "mlp.shared_expert.up_proj": "moe.shared.up",
        "mlp.shared_expert_gate": "moe.shared.router",
    },
    derived_lists=("layer_types",),
    index_lists=("mlp_only_layers",),
    boundaries={"max_window_layers": "layer_types"},
    sparse_step=True,
    plain_shapes=False,
)
