"""Gemma 3, text models: as Gemma 2, with norms on queries and keys and every sixth block full."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, QK_NORMS, Declaration

FAMILY = Declaration(
    model_type="gemma3_text",
    architectures=("Gemma3ForCausalLM",),
    parts=ATTENTION
    | QK_NORMS
    | GATED_MLP
    | PRE_NORMS
    | {"pre_feedforward_layernorm": "norm", "post_feedforward_layernorm": "norm"},
    tied=True,
    post_norms={"post_attention_layernorm": -1.0, "post_feedforward_layernorm": -1.0},
    derived_lists=("layer_types",),
)
