"""One process of a run: python -m torch.distributed.run --nproc-per-node 2 parallel_run.py JSON"""

import json
import sys

import torch

from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

torch.set_num_threads(1)
run_cpt(CptSettings(**json.loads(sys.argv[1])))
