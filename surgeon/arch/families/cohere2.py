"""Cohere Command R7B and A: as Cohere, windowed blocks with and full ones without rotary positions."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, Declaration

FAMILY = Declaration(
    model_type="cohere2",
    architectures=("Cohere2ForCausalLM",),
    parts=ATTENTION | GATED_MLP | {"input_layernorm": "norm"},
    tied=True,
    derived_lists=("layer_types",),
    plain_shapes=False,
)
