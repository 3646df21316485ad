"""DeepSeek V2: compressed keys and values, dense blocks first, then routed and shared experts."""

from surgeon.arch.declaration import EXPERTS, GATED_MLP, LATENT_ATTENTION, PRE_NORMS, SHARED_EXPERTS, Declaration

FAMILY = Declaration(
    model_type="deepseek_v2",
    architectures=("DeepseekV2ForCausalLM",),
    parts=LATENT_ATTENTION | GATED_MLP | EXPERTS | SHARED_EXPERTS | PRE_NORMS,
    boundaries={"first_k_dense_replace": ""},
    plain_shapes=False,
)
