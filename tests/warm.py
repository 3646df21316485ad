"""Programs in processes of their own that begin with the libraries there, by multiprocessing's forkserver.

An interpreter that imports torch and transformers takes three seconds of a processor, what a test has it do often a
tenth of that. What is forked is a process like any other: its own number, signals, streams, environment, folder and
exit code, and nothing of what the tests before it did. Not for what is about the start itself: what is imported, the
peak of memory, a variable that is read on import, the launcher.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path

LIBRARIES = [
    "torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict", "transformers",
    "transformers.masking_utils", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
    "peft", "surgeon.cli.app", "surgeon.train.run", "surgeon.train.anneal", "surgeon.operations",
]  # fmt: skip
SECONDS = 900.0


class Process:
    """`python WORDS`: ("-c", CODE, ..), ("-m", MODULE, ..) or (FILE, ..). Its streams are files: nothing blocks."""

    def __init__(self, words: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()  # as long as this is held
        self._streams = [Path(self._folder.name) / name for name in ("out", "err")]
        for path in self._streams:
            path.touch()
        given = (list(words), dict(os.environ if env is None else env), str(cwd or Path.cwd()))
        self._process = _context().Process(target=_begin, args=(*given, *map(str, self._streams)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = SECONDS) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def printed(self) -> str:
        """What is on stdout until now."""
        return self._streams[0].read_text()

    def communicate(self, timeout: float = SECONDS) -> tuple[str, str]:
        self.wait(timeout)
        out, err = (path.read_text() for path in self._streams)
        return out, err


def run(
    words: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, check: bool = False
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run with text that is captured."""
    process = Process(words, env=env, cwd=cwd)
    out, err = process.communicate()
    done = subprocess.CompletedProcess(list(words), process.wait(), out, err)
    assert not check or done.returncode == 0, done
    return done


def run_several(words: Sequence[str], processes: int, *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """That many at once, told of each other as torchrun does it. The first that fails ends the others; the exit code
    is 1 then."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5))
    ranks = [Process(words, env=os.environ | _launched(r, processes, store.port), cwd=cwd) for r in range(processes)]
    end = time.monotonic() + SECONDS
    while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
        assert time.monotonic() < end, [rank.printed() for rank in ranks]
        time.sleep(0.01)
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    told = [rank.communicate(60) for rank in ranks]
    code = int(any(rank.returncode for rank in ranks))
    return subprocess.CompletedProcess(list(words), code, *("".join(texts) for texts in zip(*told, strict=True)))


def _launched(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells each process."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    numbers |= {"MASTER_PORT": port, "TORCHELASTIC_RESTART_COUNT": 0}
    words = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return words | {name: str(number) for name, number in numbers.items()}


@functools.cache
def _context() -> ForkServerContext:
    """The process that forks is begun with the first process: one for each process of the tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


def _begin(words: list[str], env: dict[str, str], cwd: str, out: str, err: str) -> None:
    """Becomes the program."""
    for number, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background processes with it ignored
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    first, *rest = words
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(first, run_name="__main__")
