"""Phi-3 and Phi-4: q, k, v in one matrix, gate and up in another."""

from surgeon.arch.declaration import PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="phi3",
    architectures=("Phi3ForCausalLM",),
    parts={
        "self_attn.qkv_proj": "attention.qkv",
        "self_attn.o_proj": "attention.o",
        "mlp.gate_up_proj": "mlp.gate_up",
        "mlp.down_proj": "mlp.down",
    }
    | PRE_NORMS,
)
