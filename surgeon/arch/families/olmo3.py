"""OLMo 3: as OLMo 2, with windowed blocks between full ones."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, QK_NORMS, Declaration

FAMILY = Declaration(
    model_type="olmo3",
    architectures=("Olmo3ForCausalLM",),
    parts=ATTENTION
    | QK_NORMS
    | GATED_MLP
    | {"post_attention_layernorm": "norm", "post_feedforward_layernorm": "norm"},
    post_norms={"post_attention_layernorm": 0.0, "post_feedforward_layernorm": 0.0},
    derived_lists=("layer_types",),
)
