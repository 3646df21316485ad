"""DeepSeek V3 and R1: as V2, with a correction of the router's scores; MTP blocks are refused."""

from surgeon.arch.declaration import EXPERTS, GATED_MLP, LATENT_ATTENTION, PRE_NORMS, SHARED_EXPERTS, Declaration

FAMILY = Declaration(
    model_type="deepseek_v3",
    architectures=("DeepseekV3ForCausalLM",),
    parts=LATENT_ATTENTION
    | GATED_MLP
    | EXPERTS
    | SHARED_EXPERTS
    | PRE_NORMS
    | {"mlp.gate.e_score_correction_bias": "moe.router"},
    boundaries={"first_k_dense_replace": ""},
    defaults={"first_k_dense_replace": 3},
    plain_shapes=False,
)
