"""StableLM 2 and 3B: layer norms, optional norms for each head of queries and keys."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="stablelm",
    architectures=("StableLmForCausalLM",),
    parts=ATTENTION
    | GATED_MLP
    | PRE_NORMS
    | {"self_attn.k_layernorm.norms.{n}": "norm", "self_attn.q_layernorm.norms.{n}": "norm"},
    plain_shapes=False,
)
