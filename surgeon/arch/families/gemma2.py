"""Gemma 2: a norm before and after each branch, gains stored as (gain - 1), windowed and full blocks in turn."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="gemma2",
    architectures=("Gemma2ForCausalLM",),
    parts=ATTENTION
    | GATED_MLP
    | PRE_NORMS
    | {"pre_feedforward_layernorm": "norm", "post_feedforward_layernorm": "norm"},
    tied=True,
    post_norms={"post_attention_layernorm": -1.0, "post_feedforward_layernorm": -1.0},
    derived_lists=("layer_types",),
)
