"""StarCoder 2: layer norms, biases, an MLP without a gate."""

from surgeon.arch.declaration import ATTENTION, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="starcoder2",
    architectures=("Starcoder2ForCausalLM",),
    parts=ATTENTION | PRE_NORMS | {"mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"},
    tied=True,
    plain_shapes=False,
)
