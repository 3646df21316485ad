"""Qwen 2 and 2.5: biases on q, k, v; blocks from `max_window_layers` on may use a sliding window."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="qwen2",
    architectures=("Qwen2ForCausalLM",),
    parts=ATTENTION | GATED_MLP | PRE_NORMS,
    derived_lists=("layer_types",),
    boundaries={"max_window_layers": "layer_types"},
)
