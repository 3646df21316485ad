"""Falcon: attention and MLP side by side (with one norm or two) or one after the other."""

from surgeon.arch.declaration import PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="falcon",
    architectures=("FalconForCausalLM",),
    parts=PRE_NORMS
    | {
        "mlp.dense_4h_to_h": "mlp.down",
        "mlp.dense_h_to_4h": "mlp.up",
        "self_attention.dense": "attention.o",
        "self_attention.query_key_value": "attention.qkv",
        "ln_attn": "norm",
        "ln_mlp": "norm",
    },
    base="transformer.",
    blocks="h.",
    embedding="word_embeddings",
    final_norm="ln_f",
    tied=True,
    plain_shapes=False,
)
