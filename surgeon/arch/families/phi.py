"""Phi 1, 1.5 and 2: attention and MLP side by side behind one norm."""

from surgeon.arch.declaration import Declaration

FAMILY = Declaration(
    model_type="phi",
    architectures=("PhiForCausalLM",),
    parts={
        "input_layernorm": "norm",
        "mlp.fc1": "mlp.up",
        "mlp.fc2": "mlp.down",
        "self_attn.dense": "attention.o",
        "self_attn.k_layernorm": "norm",
        "self_attn.k_proj": "attention.k",
        "self_attn.q_layernorm": "norm",
        "self_attn.q_proj": "attention.q",
        "self_attn.v_proj": "attention.v",
    },
    final_norm="final_layernorm",
    plain_shapes=False,
)
