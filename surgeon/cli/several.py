"""Refusals where `torchrun` started several processes: what all of them refuse is said once.

They compare what they refuse through the store of the launcher, not by a collective call: a process that is alone with
its error would wait in that for others that are elsewhere.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from surgeon.cli.launched import launched
from surgeon.cli.output import print_error
from surgeon.errors import SurgeonError

if TYPE_CHECKING:
    from torch.distributed import Store

_GONE = ("Connection closed by peer", "Connection reset by peer", "NCCL communicator was aborted")  # gloo's, NCCL's
PATIENCE = timedelta(seconds=10)  # a process that refuses the same thing does so within seconds


def say(error: SurgeonError) -> None:
    """The three lines on stderr; in a process of several that is not the first, only if the first one does not say
    the very same within PATIENCE. Where all of them refuse, their process group is taken down in order, because one
    that still talks when the interpreter ends aborts its process."""
    rank, size = launched()
    if size == 1:
        print_error(error)
        return
    if rank == 0:  # whatever becomes of the others
        print_error(error)
        sys.stderr.flush()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to clear away, and waiting takes no interrupts
    try:
        told = _told(rank, size, error)
    except RuntimeError:  # torch's errors of stores: there is none, or it is gone
        told = [None] * size
    if rank and told[0] != _text(error):
        print_error(error)
        sys.stderr.flush()
    if None not in told:
        _leave()


def lost(error: Exception) -> SurgeonError | None:
    """What to say of an error of torch's that means that another process of the run is gone; None of any other."""
    rank, size = launched()
    if size == 1 or not isinstance(error, RuntimeError) or not any(word in str(error) for word in _GONE):
        return None
    return SurgeonError(
        f"another process of the run ended while process {rank} of {size} waited for it",
        "torchrun",
        "see what that one said; --resume goes on from the last state, if there is one",
    )


def _told(rank: int, size: int, error: SurgeonError) -> list[str | None]:
    """What each process refuses; None of one that does not within PATIENCE."""
    from torch.distributed import TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=PATIENCE)
    place = f"surgeon refuses/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store.set(f"{place}/{rank}", _text(error))
    keys = [f"{place}/{number}" for number in range(size)]
    if rank and not _there(store, keys[:1]):
        return [None] * size
    if not _there(store, keys):
        return [store.get(keys[0]).decode(), *([None] * (size - 1))]
    return [store.get(key).decode() for key in keys]


def _there(store: Store, keys: list[str]) -> bool:
    try:
        store.wait(keys, PATIENCE)
    except RuntimeError:
        return False
    return True


def _text(error: SurgeonError) -> str:
    return "\n".join((str(error.code), error.problem, error.where, error.hint))


def _leave() -> None:
    from torch import distributed

    # the launcher ends those that are slower to end than the first: all of them are to give the code of the refusal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if distributed.is_initialized():
        from surgeon.train.parallel import leave

        leave()
