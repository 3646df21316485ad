"""BLOOM: attention biased by distance, a norm behind the embedding; hub checkpoints may lack `transformer.`."""

from surgeon.arch.declaration import PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="bloom",
    architectures=("BloomForCausalLM",),
    parts=PRE_NORMS
    | {
        "mlp.dense_4h_to_h": "mlp.down",
        "mlp.dense_h_to_4h": "mlp.up",
        "self_attention.dense": "attention.o",
        "self_attention.query_key_value": "attention.qkv",
    },
    base="transformer.",
    base_optional=True,
    blocks="h.",
    embedding="word_embeddings",
    final_norm="ln_f",
    depth_key="n_layer",
    tied=True,
    outside={
        "word_embeddings_layernorm.bias": "norm",
        "word_embeddings_layernorm.weight": "norm",
        "transformer.word_embeddings_layernorm.bias": "norm",
        "transformer.word_embeddings_layernorm.weight": "norm",
    },
    refuse_if={
        "apply_residual_connection_post_layernorm": "what a block adds to is normalised first, so no branch is silent"
    },
    plain_shapes=False,
)
