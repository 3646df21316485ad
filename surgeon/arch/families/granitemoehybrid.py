"""Granite 4: Mamba-2 and attention blocks, routed experts and a shared MLP."""

from surgeon.arch.declaration import ATTENTION, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="granitemoehybrid",
    architectures=("GraniteMoeHybridForCausalLM",),
    parts=ATTENTION
    | PRE_NORMS
    | {
        "block_sparse_moe.input_linear": "moe.expert.gate_up",
        "block_sparse_moe.output_linear": "moe.expert.down",
        "block_sparse_moe.router.layer": "moe.router",
        "mamba.A_log": "mixer.state",
        "mamba.D": "mixer.state",
        "mamba.conv1d": "mixer.conv",
        "mamba.dt_bias": "mixer.state",
        "mamba.in_proj": "mixer.in",
        "mamba.norm": "norm",
        "mamba.out_proj": "mixer.out",
        "shared_mlp.input_linear": "moe.shared.gate_up",
        "shared_mlp.output_linear": "moe.shared.down",
    },
    derived_lists=("layer_types",),
    plain_shapes=False,
)
