"""LFM2: blocks with a short convolution between blocks with attention."""

from surgeon.arch.declaration import Declaration

FAMILY = Declaration(
    model_type="lfm2",
    architectures=("Lfm2ForCausalLM",),
    parts={
        "conv.conv": "mixer.conv",
        "conv.in_proj": "mixer.in",
        "conv.out_proj": "mixer.out",
        "feed_forward.w1": "mlp.gate",
        "feed_forward.w2": "mlp.down",
        "feed_forward.w3": "mlp.up",
        "ffn_norm": "norm",
        "operator_norm": "norm",
        "self_attn.k_layernorm": "norm",
        "self_attn.k_proj": "attention.k",
        "self_attn.out_proj": "attention.o",
        "self_attn.q_layernorm": "norm",
        "self_attn.q_proj": "attention.q",
        "self_attn.v_proj": "attention.v",
    },
    final_norm="embedding_norm",
    tied=True,
    derived_lists=("layer_types",),
    index_lists=("full_attn_idxs",),
    plain_shapes=False,
)
