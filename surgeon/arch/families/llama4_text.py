"""Llama 4, text models: experts in some blocks, chunked attention, some blocks without rotary positions."""

from surgeon.arch.declaration import ATTENTION, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="llama4_text",
    architectures=("Llama4ForCausalLM",),
    parts=ATTENTION
    | PRE_NORMS
    | {
        "feed_forward.down_proj": "mlp.down",
        "feed_forward.gate_proj": "mlp.gate",
        "feed_forward.up_proj": "mlp.up",
        "feed_forward.experts.down_proj": "moe.expert.down",
        "feed_forward.experts.gate_up_proj": "moe.expert.gate_up",
        "feed_forward.router": "moe.router",
        "feed_forward.shared_expert.down_proj": "moe.shared.down",
        "feed_forward.shared_expert.gate_proj": "moe.shared.gate",
        "feed_forward.shared_expert.up_proj": "moe.shared.up",
    },
    derived_lists=("no_rope_layers", "layer_types", "moe_layers"),
    index_lists=("moe_layers",),
    plain_shapes=False,
)
