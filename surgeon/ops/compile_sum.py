"""Compiles fused_sum.c where there is a C compiler; run when surgeon is built, or with `python compile_sum.py`.

Uses the standard library alone: whoever builds a wheel has nothing else.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("fused_sum.c")
TARGET = Path(__file__).with_name("_fused_sum.so")
# contraction would fuse a product and a sum into one rounding; the other two leave values alone, and let loops be
# vectorised that compare
_FLAGS = ["-O3", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]


def source_digest() -> str:
    """Of the source as it is; the library says which one it was made from."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def compile_sum(target: Path = TARGET) -> str | None:
    """Make the library, or leave none. None where it is there now, else what was missing, in words."""
    if target.exists():
        target.unlink()
    compiler = (
        shlex.split(os.environ.get("CC", ""))
        or [found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))][:1]
    )
    if not compiler:
        return "there is no C compiler"
    flags = [*_FLAGS, f'-DSURGEON_SOURCE="{source_digest()}"']
    clones = [["-DSURGEON_CLONES"]] if platform.machine() in ("x86_64", "AMD64") else []
    said = ""
    for extra in [*clones, []]:  # not every C library can choose between versions of a function
        try:
            scratch = tempfile.TemporaryDirectory(dir=target.parent)
        except OSError as error:
            return f"it cannot be written: {error}"
        with scratch as folder:
            made = Path(folder) / target.name
            try:
                done = subprocess.run(
                    [*compiler, *flags, *extra, str(SOURCE), "-o", str(made)], capture_output=True, text=True
                )
            except OSError as error:
                return f"the C compiler cannot be run: {error}"
            if done.returncode == 0:
                made.replace(target)
                return None
            said = done.stderr.strip().splitlines()[0] if done.stderr.strip() else f"status {done.returncode}"
    return f"{compiler[0]}: {said}"


if __name__ == "__main__":
    missing = compile_sum()
    print(f"not compiled: {missing}" if missing else f"compiled {TARGET}")
