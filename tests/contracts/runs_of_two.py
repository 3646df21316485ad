"""One process of several runs: python -m torch.distributed.run --nproc-per-node 2 runs_of_two.py RUNS.json FOUND.json

RUNS: {name: settings}. FOUND: {name: what refused it, or an empty text}. All in one process group: to begin with, a
process takes seconds, and a run of a tiny model a tenth of one. Each is then broken off behind its first state, by
taking the later ones away: it goes on into OUT-again, and what it takes to go on is left in OUT-alone.run as well.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from surgeon.errors import SurgeonError
from surgeon.train.parallel import World
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings


def break_off(out: Path, again: Path) -> None:
    run = again.with_name(again.name + ".run")
    shutil.copytree(out.with_name(out.name + ".run"), run)
    for later in sorted((run / "state").glob("*.pt"))[1:]:
        later.unlink()


def both(settings: dict[str, Any]) -> None:
    settings |= {"keep_state": True, "keep_states": 9}
    run_cpt(CptSettings(**settings))
    out = Path(settings["out"])
    again, alone = (out.with_name(f"{out.name}-{name}") for name in ("again", "alone"))
    if dist.get_rank() == 0:
        break_off(out, again)
        break_off(out, alone)
    dist.barrier()
    run_cpt(CptSettings(**settings | {"out": str(again), "resume": True}))


def main(runs: Path, target: Path) -> None:
    torch.set_num_threads(1)
    close, World.close = World.close, World.wait  # type: ignore[method-assign]  # the next run goes on with the group
    found: dict[str, str] = {}
    for name, settings in json.loads(runs.read_text()).items():
        found[name] = ""
        try:
            both(settings)
        except SurgeonError as refused:
            found[name] = f"{refused} {refused.where} {refused.hint}"
    if dist.get_rank() == 0:
        target.write_text(json.dumps(found))
    close(World(size=2))


main(*map(Path, sys.argv[1:]))
