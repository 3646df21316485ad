"""What can be said against the stages of a recipe by the configurations and headers of their models.

Numbers of blocks, roles, names of tensors, contexts: from the models that are there and the outputs of finished
stages, and for stages before that are still to be done from stand-ins (surgeon.foreseen), as far as what they write
is known without their work. Where it is not, a stage that depends on it says what it refuses when its turn comes.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from surgeon import foresee
from surgeon.early import says_where
from surgeon.errors import SurgeonError
from surgeon.recipe import Loaded, checked_settings

FORESEE: dict[str, Callable[[Any, Path], None]] = {
    "expand-layers": foresee.expand_layers,
    "extend-vocab": foresee.extend_vocab,
    "extend-context": foresee.extend_context,
    "extract-language-model": foresee.extract_language_model,
    "attach-adapter": foresee.attach_adapter,
    "fold-adapter": foresee.fold_adapter,
    "merge-task-vectors": foresee.merge_task_vectors,
    "merge": foresee.merge,
    "average": foresee.of_a_run,
    "cpt anneal": foresee.of_a_run,
    "cpt": foresee.cpt,
    "cpt export": foresee.cpt_export,
}

# a stand-in is as long as a model, if it holds nothing: some places take no such file, and stages write elsewhere
_NOT_WRITTEN = {errno.EFBIG, errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def check_models(loaded: Loaded, out: Callable[[str], Path]) -> None:
    """Raises SurgeonError that names the stage. out: where the output of a stage is, or will be."""
    with TemporaryDirectory(prefix="surgeon-") as temporary:
        folder = Path(temporary)
        stages = loaded.recipe.stages
        # a model that nobody knows yet has a path where nothing is, and the name that it will have
        models = {name: str(folder / "unknown" / out(name).name) for name in stages}
        for name, stage in stages.items():
            if out(name).is_dir():
                models[name] = str(out(name))
                continue
            if stage.run not in FORESEE:
                continue
            settings = checked_settings(name, stage, loaded.recipe.inputs | models)
            place = folder / "foreseen" / out(name).name
            with says_where(f"{loaded.source}: stage {name}"), _called({models[n]: n for n in stages}, folder):
                _foresee(stage.run, settings, place)
            if place.is_dir():
                models[name] = str(place)


def _foresee(run: str, settings: Any, place: Path) -> None:
    try:
        FORESEE[run](settings, place)
    except OSError as error:
        if error.errno not in _NOT_WRITTEN:
            raise
        shutil.rmtree(place, ignore_errors=True)  # what is not written is not known


@contextmanager
def _called(names: dict[str, str], folder: Path) -> Iterator[None]:
    """Stand-ins are called by their stages in what is refused."""
    try:
        yield
    except SurgeonError as error:
        words = [error.problem, error.where, error.hint]
        for path, name in names.items():
            if Path(path).is_relative_to(folder):
                words = [word.replace(path, f"the output of {name}") for word in words]
        raise type(error)(*words) from error
