"""Weights & Biases."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from surgeon.errors import SurgeonError
from surgeon.train.tracking import Tracker, beside, scalars

REQUIRES = "wandb"
RUN_ID = "run-id"


def wandb(
    out: Path, first: int, settings: Mapping[str, Any], *, project: str = "surgeon", entity: str | None = None,
    mode: Literal["online", "offline"] | None = None,
) -> Tracker:  # fmt: skip
    """A run of Weights & Biases, named after OUT; its files are kept in OUT.wandb beside the output.

    project, entity: whose it is. mode [as WANDB_MODE says, else online]: offline keeps everything on this machine
    until `wandb sync`. A run that goes on from a step goes on in the same run there, by the id in OUT.wandb; of steps
    that are done again Weights & Biases keeps the numbers it has.
    Source: wandb.init
    """
    return _Run(beside(out, "wandb"), out.name, first, settings, project, entity, mode)


class _Run:
    def __init__(
        self, folder: Path, name: str, first: int, settings: Mapping[str, Any], project: str, entity: str | None,
        mode: Literal["online", "offline"] | None,
    ) -> None:  # fmt: skip
        import wandb as library

        try:
            self._run = library.init(
                project=project, entity=entity, dir=str(folder), name=name, id=_run_id(folder, first), resume="allow",
                mode=mode, config=dict(settings),
                # stderr is ours, and nothing of what is printed there is a result
                settings=library.Settings(silent=True, console="off", save_code=False),
            )  # fmt: skip
        except library.Error as error:
            raise SurgeonError(
                f"Weights & Biases does not begin a run: {error}",
                "--track wandb",
                "log in with `wandb login`, or keep the numbers here: --option tracker.mode=offline",
            ) from error
        self.place = self._run.url or str(folder)

    def step(self, line: Mapping[str, Any]) -> None:
        self._run.log(scalars(line), step=line["step"])

    def end(self, ok: bool) -> None:
        self._run.finish(exit_code=0 if ok else 1)


def _run_id(folder: Path, first: int) -> str:
    """A new id for a run that begins, the same one for a run that goes on."""
    path = folder / RUN_ID
    if not first or not path.is_file():
        path.write_text(secrets.token_hex(4) + "\n", encoding="ascii")
    return path.read_text(encoding="ascii").strip()
