"""OLMo 2: norms only after each branch, and on queries and keys."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, QK_NORMS, Declaration

FAMILY = Declaration(
    model_type="olmo2",
    architectures=("Olmo2ForCausalLM",),
    parts=ATTENTION
    | QK_NORMS
    | GATED_MLP
    | {"post_attention_layernorm": "norm", "post_feedforward_layernorm": "norm"},
    post_norms={"post_attention_layernorm": 0.0, "post_feedforward_layernorm": 0.0},
)
