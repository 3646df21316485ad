"""Granite 3 with experts, those of a block in one tensor."""

from surgeon.arch.declaration import ATTENTION, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="granitemoe",
    architectures=("GraniteMoeForCausalLM",),
    parts=ATTENTION
    | PRE_NORMS
    | {
        "block_sparse_moe.input_linear": "moe.expert.gate_up",
        "block_sparse_moe.output_linear": "moe.expert.down",
        "block_sparse_moe.router.layer": "moe.router",
    },
    plain_shapes=False,
)
