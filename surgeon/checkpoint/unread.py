"""Weights whose digests nobody knows yet, read while something else is done with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from surgeon.checkpoint.known_digests import Stamp, let_tick_pass, recall, remember, stamp
from surgeon.checkpoint.tree_digest import Reading
from surgeon.errors import SurgeonError


class Unread:
    """Files of weights, to be read in pieces by the threads that copy them: a thread that waits for the disk leaves a
    core to one that hashes. Afterwards their digests are known as if they had been asked for before."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """To be made before anything is linked: a second name changes what known digests are found by."""
        self._found = {path: recall(stamp(path)) for path in paths}
        self._absent = [path for path, digest in self._found.items() if digest is None]
        let_tick_pass(self._absent)
        self._before = time.time_ns()
        self._linked: Collection[Path] = ()
        self._marks: dict[Path, Stamp] = {}
        self._reading: Reading | None = None

    def jobs(self, linked: Collection[Path]) -> list[Callable[[], None]]:
        """What reads them, a job for each piece. linked: those that have been given a second name meanwhile."""
        self._linked = linked
        self._marks = {path: stamp(path) for path in self._found}
        self._reading = Reading(self._absent)
        return self._reading.jobs()

    def remember(self) -> None:
        """When all jobs are done: keep the digests, so that asking for them does not read again. Raises SurgeonError
        where a file was written to meanwhile: what was copied is neither the old one nor the new one."""
        assert self._reading is not None
        found = self._found | dict(zip(self._absent, self._reading.digests(), strict=True))
        for path, digest in found.items():
            now, then = stamp(path), self._marks[path]
            if now[:4] != then[:4]:
                raise SurgeonError(
                    "the input changed while it was copied", str(path), "run it again when it is at rest"
                )
            # another name of it that came or went meanwhile moves the last time: it is read again then
            if digest is not None and now == then:
                remember(then, digest, self._before, linked=path in self._linked)
