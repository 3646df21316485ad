"""ERNIE 4.5 with experts between a first and a last block."""

from surgeon.arch.declaration import ATTENTION, EXPERTS, GATED_MLP, PRE_NORMS, SHARED_EXPERTS, Declaration

FAMILY = Declaration(
    model_type="ernie4_5_moe",
    architectures=("Ernie4_5_MoeForCausalLM",),
    parts=ATTENTION
    | GATED_MLP
    | EXPERTS
    | SHARED_EXPERTS
    | PRE_NORMS
    | {"mlp.moe_statics.e_score_correction_bias": "moe.router"},
    tied=True,
    boundaries={"moe_layer_start_index": ""},
    last_blocks=("moe_layer_end_index",),
    defaults={"moe_layer_start_index": 1},
    refuse_unless={"moe_layer_interval": (1, "experts stand in every n-th block, which no list can say")},
    plain_shapes=False,
)
