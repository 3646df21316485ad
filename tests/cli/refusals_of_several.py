"""One process of a command: python -m torch.distributed.run refusals_of_several.py '[[WORD, ..], ..]'

A list of words for each process; the last one is for all that are left. What a process ends with goes to the file
`code-RANK`.
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

from surgeon.cli import several
from surgeon.cli.app import main

several.PATIENCE = timedelta(seconds=3)
rank = int(os.environ["RANK"])
words = json.loads(sys.argv[1])
try:
    main(words[min(rank, len(words) - 1)])
except SystemExit as end:
    Path(f"code-{rank}").write_text(str(end.code))
    raise
