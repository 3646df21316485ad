"""GLM-4 0414: a norm before and after each branch."""

from surgeon.arch.declaration import ATTENTION, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="glm4",
    architectures=("Glm4ForCausalLM",),
    parts=ATTENTION
    | PRE_NORMS
    | {
        "mlp.down_proj": "mlp.down",
        "mlp.gate_up_proj": "mlp.gate_up",
        "post_mlp_layernorm": "norm",
        "post_self_attn_layernorm": "norm",
    },
    post_norms={"post_self_attn_layernorm": 0.0, "post_mlp_layernorm": 0.0},
    plain_shapes=False,
)
