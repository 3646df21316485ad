"""Mixtral: a router and experts in every block; checkpoints keep one matrix per expert, under older names."""

from surgeon.arch.declaration import ATTENTION, EXPERTS, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="mixtral",
    architectures=("MixtralForCausalLM",),
    parts=ATTENTION
    | PRE_NORMS
    | {
        "block_sparse_moe.gate": "moe.router",
        "block_sparse_moe.experts.{n}.w1": "moe.expert.gate",
        "block_sparse_moe.experts.{n}.w3": "moe.expert.up",
        "block_sparse_moe.experts.{n}.w2": "moe.expert.down",
    }
    | EXPERTS,
)
