"""One process of several runs: python -m torch.distributed.run --nproc-per-node 2 runs_of_two.py RUNS.json FOUND.json

RUNS: {name: settings}. FOUND: {name: what refused it, or an empty text}. All in one process group: to begin with, a
process takes seconds, and a run of a tiny model a tenth of one.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from surgeon.errors import SurgeonError
from surgeon.train.parallel import World
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings


def main(runs: Path, target: Path) -> None:
    torch.set_num_threads(1)
    close, World.close = World.close, World.wait  # type: ignore[method-assign]  # the next run goes on with the group
    found: dict[str, str] = {}
    for name, settings in json.loads(runs.read_text()).items():
        found[name] = ""
        try:
            run_cpt(CptSettings(**settings))
        except SurgeonError as refused:
            found[name] = f"{refused} {refused.where} {refused.hint}"
    if dist.get_rank() == 0:
        target.write_text(json.dumps(found))
    close(World(size=2))


main(*map(Path, sys.argv[1:]))
