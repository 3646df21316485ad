"""Apertus: norms on queries and keys, an MLP without a gate whose activation has parameters."""

from surgeon.arch.declaration import ATTENTION, QK_NORMS, Declaration

FAMILY = Declaration(
    model_type="apertus",
    architectures=("ApertusForCausalLM",),
    parts=ATTENTION
    | QK_NORMS
    | {
        "attention_layernorm": "norm",
        "feedforward_layernorm": "norm",
        "mlp.act_fn.alpha_n": "other",
        "mlp.act_fn.alpha_p": "other",
        "mlp.act_fn.beta": "other",
        "mlp.act_fn.eps": "other",
        "mlp.down_proj": "mlp.down",
        "mlp.up_proj": "mlp.up",
    },
    plain_shapes=False,
)
