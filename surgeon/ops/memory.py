"""How much memory this process has used and may use (Linux)."""

from __future__ import annotations

from pathlib import Path


def peak_rss_bytes() -> int:
    """The most resident memory of this process so far (VmHWM: unlike ru_maxrss not inherited from the parent)."""
    return _field(Path("/proc/self/status"), "VmHWM")


def memory_available() -> int:
    """Bytes that can be used without swapping, as the kernel estimates it."""
    return _field(Path("/proc/meminfo"), "MemAvailable")


def memory_budget() -> int:
    """Bytes that computed tensors may take at one time: half of what is available now."""
    return memory_available() // 2


def _field(path: Path, name: str) -> int:
    with path.open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":")) * 1024
