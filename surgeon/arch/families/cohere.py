"""Cohere Command R: attention and MLP side by side behind one norm."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, QK_NORMS, Declaration

FAMILY = Declaration(
    model_type="cohere",
    architectures=("CohereForCausalLM",),
    parts=ATTENTION | QK_NORMS | GATED_MLP | {"input_layernorm": "norm"},
    tied=True,
    plain_shapes=False,
)
