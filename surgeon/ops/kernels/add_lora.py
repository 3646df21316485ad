"""A weight with a low-rank update added."""

from __future__ import annotations

from torch import Tensor

COMPUTE = "float64"
AT_ROWS = (True,)  # of the weight only the rows at hand are needed; the factors are small, and cut here
CHANGES = 0


def add_lora(
    inputs: list[Tensor], rows: tuple[int, int] | None, *, scaling: float, transposed: bool = False
) -> Tensor:
    """W + scaling * B @ A in float64, of inputs [W, A, B]: W [out, in], A [rank, in], B [out, rank].

    With inputs [W, A, B, A0, B0] the update that the adapter started with is taken out: W + scaling * (B A - B0 A0).
    transposed: W is stored [in, out] (GPT-2's Conv1D, embeddings). rows: of W as stored, where it is not whole.
    Source: Hu et al. 2021, LoRA (arXiv 2106.09685), equation 3.
    """
    weight = inputs[0]
    update = _update(inputs[1], inputs[2], rows, transposed)
    if len(inputs) > 3:
        update -= _update(inputs[3], inputs[4], rows, transposed)
    return update.mul_(scaling).add_(weight)


def _update(a: Tensor, b: Tensor, rows: tuple[int, int] | None, transposed: bool) -> Tensor:
    start, stop = rows if rows is not None else (0, a.shape[1] if transposed else b.shape[0])
    if transposed:
        return (b @ a[:, start:stop]).T.clone()
    return b[start:stop] @ a
