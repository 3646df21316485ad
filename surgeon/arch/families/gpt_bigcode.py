"""StarCoder 1: as GPT-2 with plain linear layers and one head for keys and values."""

from surgeon.arch.declaration import Declaration

FAMILY = Declaration(
    model_type="gpt_bigcode",
    architectures=("GPTBigCodeForCausalLM",),
    parts={
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.o",
        "ln_1": "norm",
        "ln_2": "norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    },
    base="transformer.",
    blocks="h.",
    embedding="wte",
    final_norm="ln_f",
    depth_key="n_layer",
    tied=True,
    position="wpe",
    buffers=("attn.bias", "attn.masked_bias"),
    plain_shapes=False,
)
