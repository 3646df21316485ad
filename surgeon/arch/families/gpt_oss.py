"""gpt-oss: the experts of a block in one tensor, biases everywhere, a sink per head; not in MXFP4."""

from surgeon.arch.declaration import ATTENTION, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="gpt_oss",
    architectures=("GptOssForCausalLM",),
    parts=ATTENTION
    | PRE_NORMS
    | {
        "mlp.experts.down_proj": "moe.expert.down",
        "mlp.experts.down_proj_bias": "moe.expert.down",
        "mlp.experts.gate_up_proj": "moe.expert.gate_up",
        "mlp.experts.gate_up_proj_bias": "moe.expert.gate_up",
        "mlp.router": "moe.router",
        "self_attn.sinks": "attention.sinks",
    },
    derived_lists=("layer_types",),
    plain_shapes=False,
)
