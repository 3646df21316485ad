"""SmolLM3: every fourth block has no rotary position."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="smollm3",
    architectures=("SmolLM3ForCausalLM",),
    parts=ATTENTION | GATED_MLP | PRE_NORMS,
    tied=True,
    derived_lists=("no_rope_layers", "layer_types"),
    boundaries={"max_window_layers": "layer_types"},
)
