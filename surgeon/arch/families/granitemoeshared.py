"""Granite with experts and a shared one."""

from surgeon.arch.declaration import ATTENTION, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="granitemoeshared",
    architectures=("GraniteMoeSharedForCausalLM",),
    parts=ATTENTION
    | PRE_NORMS
    | {
        "block_sparse_moe.input_linear": "moe.expert.gate_up",
        "block_sparse_moe.output_linear": "moe.expert.down",
        "block_sparse_moe.router.layer": "moe.router",
        "shared_mlp.input_linear": "moe.shared.gate_up",
        "shared_mlp.output_linear": "moe.shared.down",
    },
    plain_shapes=False,
)
