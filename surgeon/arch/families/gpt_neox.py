"""GPT-NeoX and Pythia: attention and MLP side by side or one after the other."""

from surgeon.arch.declaration import PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="gpt_neox",
    architectures=("GPTNeoXForCausalLM",),
    parts={
        "attention.query_key_value": "attention.qkv",
        "attention.dense": "attention.o",
        "mlp.dense_h_to_4h": "mlp.up",
        "mlp.dense_4h_to_h": "mlp.down",
    }
    | PRE_NORMS,
    base="gpt_neox.",
    embedding="embed_in",
    head="embed_out",
    final_norm="final_layer_norm",
    buffers=("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"),
)
