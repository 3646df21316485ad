"""EXAONE 4: norms only after each branch, and on queries and keys; windowed blocks between full ones."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, QK_NORMS, Declaration

FAMILY = Declaration(
    model_type="exaone4",
    architectures=("Exaone4ForCausalLM",),
    parts=ATTENTION
    | QK_NORMS
    | GATED_MLP
    | {"post_attention_layernorm": "norm", "post_feedforward_layernorm": "norm"},
    derived_lists=("layer_types",),
    post_norms={"post_attention_layernorm": 0.0, "post_feedforward_layernorm": 0.0},
    plain_shapes=False,
)
