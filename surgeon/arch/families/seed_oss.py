"""Seed-OSS: as Llama, with biases on q, k, v."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="seed_oss",
    architectures=("SeedOssForCausalLM",),
    parts=ATTENTION | GATED_MLP | PRE_NORMS,
    plain_shapes=False,
)
