"""Qwen 3 with experts: dense blocks are those of `mlp_only_layers`, or those between every n-th."""

from surgeon.arch.declaration import ATTENTION, EXPERTS, GATED_MLP, PRE_NORMS, QK_NORMS, Declaration

FAMILY = Declaration(
    model_type="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    parts=ATTENTION | QK_NORMS | GATED_MLP | PRE_NORMS | EXPERTS,
    index_lists=("mlp_only_layers",),
    boundaries={"max_window_layers": ""},
    sparse_step=True,
)
