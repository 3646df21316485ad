"""GPT-2: Conv1D matrices stored [in, out], learned positions; hub checkpoints may lack the `transformer.` prefix."""

from surgeon.arch.declaration import Declaration

FAMILY = Declaration(
    model_type="gpt2",
    architectures=("GPT2LMHeadModel",),
    parts={
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.o",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
        "ln_1": "norm",
        "ln_2": "norm",
    },
    base="transformer.",
    base_optional=True,
    blocks="h.",
    embedding="wte",
    final_norm="ln_f",
    position="wpe",
    depth_key="n_layer",
    tied=True,
    transposed=True,
    buffers=("attn.bias", "attn.masked_bias"),
    refuse_if={
        "scale_attn_by_inverse_layer_idx": "attention is divided by the block's number, which a copy does not keep"
    },
)
