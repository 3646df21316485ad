"""The files that an output will have beside its weights, before there is an output."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgeon.checkpoint.config_json import dump_json
from surgeon.checkpoint.index import CONFIG
from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.ops.plan import Plan


@contextmanager
def output_files(plan: Plan) -> Iterator[Path]:
    """A folder with the files that the output will have beside its weights: its tokenizer reads the texts."""
    with tempfile.TemporaryDirectory(prefix="surgeon-search-") as name:
        folder = Path(name)
        (folder / CONFIG).write_text(dump_json(dict(plan.config)), encoding="utf-8")
        for carried, role in plan.carried.items():
            if not carried.startswith(f"{SURGEON_DIR}/"):
                (folder / carried).parent.mkdir(parents=True, exist_ok=True)
                (folder / carried).symlink_to((plan.input(role).path / carried).absolute())
        for written, text in plan.files.items():
            (folder / written).parent.mkdir(parents=True, exist_ok=True)
            (folder / written).write_text(text, encoding="utf-8")
        yield folder
