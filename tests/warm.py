"""Programs in processes of their own that begin with the libraries there: forked off one that has only imported them.

An interpreter that imports torch and transformers takes three seconds of a processor, what a test has it do often a
tenth of that. What is forked is a process like any other: its own number, signals, streams, environment, folder and
exit code, and nothing of what the tests before it did. Not for what is about the start itself: what is imported, the
peak of memory, a variable that is read on import, the launcher.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

LIBRARIES = (
    "torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict", "transformers",
    "transformers.masking_utils", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
    "peft", "surgeon.cli.app", "surgeon.train.run", "surgeon.train.anneal", "surgeon.operations",
)  # fmt: skip
NUMBER = struct.Struct("!q")


class Process:
    """`python WORDS`: ("-c", CODE, ..), ("-m", MODULE, ..) or (FILE, ..).

    processes: None is a process that nothing launched; a number is that many, told of each other as torchrun does it,
    ended together where one fails, with the exit code 1 then. Their streams are files: nothing blocks on them.
    """

    def __init__(
        self, words: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None,
        processes: int | None = None,
    ) -> None:  # fmt: skip
        self.args, self.returncode = list(words), None
        self._files: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - they live as long as this does
        self._status, given = os.pipe()
        request = {
            "words": self.args, "env": {**(os.environ if env is None else env)}, "cwd": str(cwd or Path.cwd()),
            "processes": processes,
        }  # fmt: skip
        text = json.dumps(request).encode()
        server = _server()
        socket.send_fds(server, [NUMBER.pack(len(text))], [file.fileno() for file in self._files] + [given])
        server.sendall(text)
        os.close(given)
        self.pid = self._told()
        assert self.pid is not None

    def _told(self) -> int | None:
        told = os.read(self._status, NUMBER.size)
        return int(NUMBER.unpack(told)[0]) if told else None

    def poll(self) -> int | None:
        return self.wait() if self.returncode is not None or select.select([self._status], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._told()
            os.close(self._status)
            assert self.returncode is not None, "the process that waits for it was killed"
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid or 0, number)

    def printed(self) -> str:
        """What is on stdout until now."""
        return os.pread(self._files[0].fileno(), 1 << 20, 0).decode()

    def communicate(self, timeout: float = 900.0) -> tuple[str, str]:
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.send_signal(signal.SIGKILL)
            raise
        for file in self._files:
            file.seek(0)
        out, err = (file.read().decode() for file in self._files)
        return out, err


def run(
    words: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, check: bool = False,
    processes: int | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """As subprocess.run with text that is captured."""
    process = Process(words, env=env, cwd=cwd, processes=processes)
    out, err = process.communicate()
    done = subprocess.CompletedProcess(process.args, process.wait(), out, err)
    assert not check or done.returncode == 0, done
    return done


@functools.cache
def _server() -> socket.socket:
    """The connection to the process that forks: one for each process of the tests, begun when it is first needed."""
    mine, its = socket.socketpair()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, str(its.fileno())]
    process = subprocess.Popen(words, env=environment, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)
    its.close()
    atexit.register(lambda: (process.terminate(), process.wait()))  # it ends by itself where this one is killed
    return mine


def _serve(asked: socket.socket) -> dict[str, Any]:
    """Answers requests; returns only in a process that is to do what it gives."""
    keepers: set[int] = set()
    while True:
        head, files, _, _ = socket.recv_fds(asked, NUMBER.size, 3)
        if not head:
            os._exit(0)
        text = b""
        while len(text) < NUMBER.unpack(head)[0]:
            text += asked.recv(NUMBER.unpack(head)[0] - len(text))
        keepers = {pid for pid in keepers if not os.waitpid(pid, os.WNOHANG)[0]}
        keeper = os.fork()
        if keeper == 0:
            asked.close()
            return _keep(json.loads(text), *files)
        keepers.add(keeper)
        for file in files:
            os.close(file)


def _keep(request: dict[str, Any], out: int, err: int, status: int) -> dict[str, Any]:
    """Between the one that forks and the program: it waits for the program, and tells of its end."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background processes with it ignored
    several = request["processes"]
    gates = [os.pipe() for _ in range(several or 0)]
    pids: list[int] = []
    for rank in range(several or 1):
        pid = os.fork()
        if pid == 0:
            os.close(status)
            if several:
                port = str(NUMBER.unpack(os.read(gates[rank][0], NUMBER.size))[0])
                request["env"] |= _launched(rank, several, port)
            return request
        pids.append(pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(status, NUMBER.pack(pids[0]))
    if several:
        from torch.distributed import TCPStore

        # begun behind the forks, so that no process has half of its threads; at a port that is free for certain
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5))
        for _, gate in gates:
            os.write(gate, NUMBER.pack(store.port))
        os.write(status, NUMBER.pack(_together(pids)))
    else:
        os.write(status, NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1])))
    os._exit(0)


def _launched(rank: int, several: int, port: str) -> dict[str, str]:
    """What torchrun tells each process."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": several, "LOCAL_WORLD_SIZE": several}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return place | {key: str(value) for key, value in numbers.items()} | {"TORCHELASTIC_RESTART_COUNT": "0"}


def _together(pids: list[int]) -> int:
    """Waits for all; the first that fails ends the others, those that do not heed it after 30 seconds for good."""
    left, code, late = set(pids), 0, float("inf")
    while left:
        pid, state = os.waitpid(-1, os.WNOHANG)
        left -= {pid}
        if pid and state and not code:
            code, late = 1, time.monotonic() + 30
            for other in left:
                os.kill(other, signal.SIGTERM)
        if time.monotonic() > late:
            for other in left:
                os.kill(other, signal.SIGKILL)
        if not pid:
            time.sleep(0.01)
    return code


def _begin(request: dict[str, Any]) -> None:
    """Becomes the program, whose end is that of this interpreter."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    (first, *words), paths = request["words"], os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = ["", *filter(None, paths), *(p for p in sys.path[1:] if p not in paths)]
    if first == "-c":
        sys.argv = ["-c", *words[1:]]
        exec(compile(words[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *words], str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    for name in LIBRARIES:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the keyboard, which the tests hear as well
    _begin(_serve(socket.socket(fileno=int(sys.argv[1]))))
