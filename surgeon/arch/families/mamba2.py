"""Mamba-2: a state-space mixer in every block and nothing else."""

from surgeon.arch.declaration import Declaration

FAMILY = Declaration(
    model_type="mamba2",
    architectures=("Mamba2ForCausalLM",),
    parts={
        "mixer.A_log": "mixer.state",
        "mixer.D": "mixer.state",
        "mixer.conv1d": "mixer.conv",
        "mixer.dt_bias": "mixer.state",
        "mixer.in_proj": "mixer.in",
        "mixer.norm": "norm",
        "mixer.out_proj": "mixer.out",
        "norm": "norm",
    },
    base="backbone.",
    embedding="embeddings",
    final_norm="norm_f",
    refuse_if={
        "rescale_prenorm_residual": "its class divides the output projections that it loads by the root of the depth"
    },
    plain_shapes=False,
)
