"""How far each block turns what passes through it, on the run's own first windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surgeon.data.pack import IGNORED
from surgeon.train import attention
from surgeon.train.batch import collate
from surgeon.train.blocks import blocks_of

if TYPE_CHECKING:
    from surgeon.train.job import Job


@torch.no_grad()
def block_cosines(job: Job) -> list[float]:
    """The mean cosine of what enters and what leaves each block, over the scored tokens of the first step's windows.

    The model is run as it is now, in eval mode and in the run's type; cosines and means in float64. Several processes
    that share it all run all windows.
    Source: 2504.07097, the importance of a layer
    """
    blocks = blocks_of(job.model)
    total, count = torch.zeros(len(blocks), dtype=torch.float64), 0
    held: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(number: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            entering = args[0] if args else kwargs["hidden_states"]
            held[number] = (entering, output[0] if isinstance(output, tuple) else output)

        return hook

    handles = [block.register_forward_hook(keep(i), with_kwargs=True) for i, block in enumerate(blocks)]
    was_training = job.model.training
    job.model.eval()
    windows, size = job.data.mixture.batch(0), job.shape.micro_batch
    try:
        for at in range(0, len(windows), size):
            batch, arguments = attention.arranged(collate(windows[at : at + size], job.device), job.mode)
            # compiled blocks would keep these hooks, or not see them
            with torch.compiler.set_stance("force_eager"), job.autocast():
                job.model(**arguments, use_cache=False)
            scored = batch.labels.reshape(-1) != IGNORED
            count += int(scored.sum())
            for number, pair in held.items():
                entering, leaving = (t.reshape(-1, t.shape[-1])[scored].double() for t in pair)
                total[number] += torch.cosine_similarity(entering, leaving, dim=-1).sum().cpu()
    finally:
        for handle in handles:
            handle.remove()
        job.model.train(was_training)
    job.world.reshard(job.model)  # the weights are updated next
    return job.world.from_main(lambda: [float(x) for x in total / count])
