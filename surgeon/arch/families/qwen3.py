"""Qwen 3, dense: norms on queries and keys."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, QK_NORMS, Declaration

FAMILY = Declaration(
    model_type="qwen3",
    architectures=("Qwen3ForCausalLM",),
    parts=ATTENTION | QK_NORMS | GATED_MLP | PRE_NORMS,
    derived_lists=("layer_types",),
    boundaries={"max_window_layers": "layer_types"},
)
