"""The processes of a run: one, or as many as `torchrun` started, which share the model's blocks (FSDP2).

Every process makes the same batch and takes its share of the rows, so the data of a step do not depend on how many
there are. Nothing here is of our own making but the bookkeeping: torch shards, gathers and reduces.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from surgeon.data.pack import IGNORED, Window
from surgeon.errors import SurgeonError, UsageError
from surgeon.train.sharding import units

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Processes by number; `size` 1 is a run without any of this. mesh: of the devices, where there are several."""

    rank: int = 0
    size: int = 1
    mesh: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    def share(self, windows: Sequence[Window], micro_batch: int) -> list[Window]:
        """This process' windows of a step. All get as many micro-batches, because every forward pass is a common one:
        where rows run out there are rows without labels."""
        if self.size == 1:
            return list(windows)
        mine = list(windows[self.rank :: self.size])
        most = -(-len(windows) // self.size)
        most = -(-most // micro_batch) * micro_batch if most > micro_batch else most
        return mine + [_without_labels(windows[0])] * (most - len(mine))

    def from_main(self, work: Callable[[], T]) -> T:
        """What `work` gives in the main process, which alone does it; what it refuses is refused everywhere."""
        if self.size == 1:
            return work()
        held: list[Any] = [None, None]
        if self.is_main:
            try:
                held[0] = work()
            except SurgeonError as error:
                held[1] = error
        dist.broadcast_object_list(held)
        if held[1] is not None:
            raise held[1]
        result: T = held[0]
        return result

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, in its place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, value: bool) -> bool:
        """Whether it holds in any process."""
        if self.size == 1:
            return value
        held = torch.tensor(int(value))  # on the host: no device waits for it
        dist.all_reduce(held, dist.ReduceOp.MAX)
        return bool(held)

    def close(self) -> None:
        """The end of the processes' talk."""
        if self.size > 1:
            dist.barrier()
            leave()

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def local(self, tensor: Tensor) -> Tensor:
        """The part of a tensor that this process holds, as it is: writing to it writes to the tensor."""
        from torch.distributed.tensor import DTensor

        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def full(self, tensor: Tensor) -> Tensor:
        """The whole tensor, in every process."""
        from torch.distributed.tensor import DTensor

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def local_rows(self, mask: Tensor, parameter: Tensor) -> Tensor:
        """The part of a mask of all rows that belongs to the rows that this process holds of a parameter."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(parameter, DTensor):
            return mask
        placed = distribute_tensor(mask.to(torch.uint8), parameter.device_mesh, parameter.placements)
        return placed.to_local().bool()

    def shard(self, model: Any, blocks: nn.ModuleList, dtype: torch.dtype) -> None:
        """Divide the model's parameters among the processes, unit by unit (see sharding.py); products in `dtype`,
        masters and sums of gradients in float32. Adapters must be on the model already: parameters that are put on
        later are not reduced.

        Raises SurgeonError where the processes hold different models or trainable sets."""
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self.agree(model)
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        if dtype == torch.float32:
            policy = MixedPrecisionPolicy()
        for unit in units(model, blocks):
            fully_shard(list(unit.modules), mesh=self.mesh, mp_policy=policy, reshard_after_forward=unit.freed)
        fully_shard(model, mesh=self.mesh, mp_policy=policy)

    def reshard(self, model: Any) -> None:
        """Let go of whole tensors that a forward pass without a backward one left gathered: what is written to the
        parts of them would not be seen."""
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules() if self.size > 1 else ():
            if isinstance(module, FSDPModule):
                module.reshard()

    @contextmanager
    def exchanged(
        self, model: Any, parameters: Mapping[str, Tensor], others: Mapping[str, Tensor]
    ) -> Iterator[None]:  # fmt: skip
        """Within it these parameters of a divided model hold what others of the same names, divided alike, hold, and
        those what they held: a pass is then that of the others. Bit for bit as before behind it, on any way out."""
        self._exchange(model, parameters, others)
        try:
            yield
        finally:
            self._exchange(model, parameters, others)

    @torch.no_grad()
    def _exchange(self, model: Any, parameters: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
        self.reshard(model)  # the next pass gathers what is then in the parts
        for name, other in others.items():
            own, theirs = self.local(parameters[name]), self.local(other)
            kept = own.clone()
            own.copy_(theirs)
            theirs.copy_(kept)

    def check_alike(self, started_with: Mapping[str, Any]) -> None:
        """All processes were started with the same settings and read the same inputs: they would train together all
        the same, each on a batch of its own. Raises SurgeonError in every one of them."""
        if self.size == 1:
            return
        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, dict(started_with))
        for rank, other in enumerate(held):
            changed = sorted(key for key in {*held[0], *other} if held[0].get(key) != other.get(key))
            if changed:
                raise SurgeonError(
                    f"processes 0 and {rank} were started otherwise: {', '.join(changed)}",
                    "torchrun",
                    "give all of them the same settings, and the same files on every machine",
                )

    def agree(self, model: Any) -> None:
        """All processes have the same tensors, and train the same ones."""
        own = [
            [n, list(p.shape), p.requires_grad, float(p.detach().double().sum())] for n, p in model.named_parameters()
        ]
        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, own)
        for rank, other in enumerate(held):
            if other != held[0]:  # every process says the same
                name = next((a[0] for a, b in zip(held[0], other, strict=False) if a != b), "their number")
                raise SurgeonError(
                    f"processes 0 and {rank} hold different models: {name}",
                    "torchrun",
                    "give all of them the same files and the same --seed",
                )

    def values(self, model: Any) -> dict[str, Tensor]:
        """The model's parameters by name, whole, on the main process' host; float32."""
        return {name: self.gathered(p.detach()) for name, p in model.named_parameters()}

    def gathered(self, tensor: Tensor) -> Tensor:
        """The whole tensor on the main process' host; elsewhere it is let go at once."""
        whole = self.full(tensor)
        return whole.cpu() if self.is_main else whole.new_empty(0)

    def restore(
        self, optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor],
        moments: dict[str, Any],
    ) -> None:  # fmt: skip
        """Put whole tensors, of a state that one process wrote, into the parts of this process."""
        with torch.no_grad():
            for name, parameter in parameters.items():
                self.local(parameter).copy_(self.part(tensors[name], parameter))
        if self.size > 1:
            held = [p for group in optimizer.param_groups for p in group["params"]]
            placed = {
                number: {k: self.divided(v, held[number]) if isinstance(v, Tensor) else v for k, v in state.items()}
                for number, state in moments["state"].items()
            }
            moments = {"state": placed, "param_groups": moments["param_groups"]}
        optimizer.load_state_dict(moments)

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        """What this process holds of a whole tensor that is divided like another."""
        return self.local(self.divided(whole, like))

    def divided(self, whole: Tensor, like: Tensor, *, alike: bool = False) -> Tensor:
        """A whole tensor, of the main process, divided along the axis along which another one is; as it is where the
        other one is whole, or it has no axis. alike: every process has the very same, so nothing is sent."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor) or whole.ndim == 0:
            return whole
        source = None if alike else 0
        place = like.device
        return distribute_tensor(whole.to(place), like.device_mesh, like.placements, src_data_rank=source)

    def joined(self, part: Tensor, like: Tensor) -> Tensor:
        """The whole, on the main process' host, of what this process holds a part of, divided like another tensor."""
        if self.size == 1:
            return part
        held = torch.empty_like(like)
        self.local(held).copy_(part)
        return self.gathered(held)


SOLO = World()


def world_of(device: str) -> tuple[World, torch.device | None]:
    """The processes that `torchrun` (or `accelerate launch`) started, and this one's device; SOLO without them."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return SOLO, None
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not on_gpu:
        raise UsageError("there is no CUDA device", "--device cuda", "use --device auto or cpu")
    if on_gpu and local >= torch.cuda.device_count():
        raise UsageError(f"process {local} of this machine has no GPU of its own", "torchrun", "start one a GPU")
    place = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    from torch.distributed.device_mesh import init_device_mesh

    return World(rank, size, init_device_mesh(place.type, (size,))), place


def leave() -> None:
    """Take down the process group, when no process waits for another. Gloo's threads still let go of what they sent,
    for which they need the interpreter: one that comes to it when the interpreter ends aborts the process, so they get
    a moment here."""
    time.sleep(0.2)
    dist.destroy_process_group()


def _without_labels(window: Window) -> Window:
    return replace(window, labels=np.full_like(window.labels, IGNORED))
