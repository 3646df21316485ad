"""GLM-4.5 and 4.6: dense blocks first, then routed and shared experts; MTP blocks are refused."""

from surgeon.arch.declaration import ATTENTION, EXPERTS, GATED_MLP, PRE_NORMS, QK_NORMS, SHARED_EXPERTS, Declaration

FAMILY = Declaration(
    model_type="glm4_moe",
    architectures=("Glm4MoeForCausalLM",),
    parts=ATTENTION
    | QK_NORMS
    | GATED_MLP
    | EXPERTS
    | SHARED_EXPERTS
    | PRE_NORMS
    | {"mlp.gate.e_score_correction_bias": "moe.router"},
    boundaries={"first_k_dense_replace": ""},
    defaults={"first_k_dense_replace": 1},
    plain_shapes=False,
)
