"""What of a folder goes out to a hub, after it was checked against its lineage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from surgeon.card.front import CARD, check_front
from surgeon.card.write import made_card
from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage, dump_lineage, read_lineage
from surgeon.checkpoint.sidecars import METRICS_PREFIX, SURGEON_DIR
from surgeon.errors import SurgeonError, UsageError
from surgeon.hub.adapter_base import based, with_base
from surgeon.hub.places import without_places
from surgeon.progress import SILENT, Progress
from surgeon.verify import verify
from surgeon.words import without_folders


@dataclass(frozen=True)
class Upload:
    """files: by their names in the repository, a place or the content. left: what lies in the folder and is neither
    the lineage's nor of a training; it stays here."""

    repo: str
    operation: str
    files: dict[str, Path | bytes]
    left: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum(len(held) if isinstance(held, bytes) else held.stat().st_size for held in self.files.values())


def prepare(folder: Path, repo: str, progress: Progress = SILENT, base: str | None = None) -> Upload:
    """What is to be uploaded, after every file was held against the digest in the lineage. Nothing is sent.

    The files that the lineage answers for, the metrics of trainings, the card (as it lies there, or made anew),
    and surgeon.json with the places of parents taken out (see published). base: the name on the hub of what an adapter
    is for (see based). Raises UsageError on a repo that is not ORG/NAME and on an adapter whose base is on no hub,
    SurgeonError on a folder without a lineage or with a file that is another than recorded.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"this is no name of a repository: {error}", repo, "give ORG/NAME") from error
    if "/" not in repo:
        raise UsageError("a repository of the hub is named with its owner", repo, f"give ORG/{repo}")
    lineage = read_lineage(folder)
    if lineage is None:
        raise SurgeonError(
            f"there is no {LINEAGE_FILE}: nothing says what this folder should hold",
            str(folder),
            f"push what surgeon wrote; `hf upload {repo} FOLDER` takes any folder",
        )
    renamed = based(folder, lineage, base)
    broken = next((check for check in verify(folder, progress=progress)["checks"] if not check["holds"]), None)
    if broken is not None:
        raise SurgeonError(
            f"this is not what was written: {broken['check']}: {broken['detail']}",
            str(folder),
            "`surgeon verify` lists every difference: make the output again, or restore the file",
        )
    files: dict[str, Path | bytes] = {name: folder / name for name in sorted([*lineage.files, *_metrics(folder)])}
    card = folder / CARD
    check_front(folder)
    sent = without_places(lineage if base is None else with_base(lineage, base, renamed))
    kept = card.is_file() and (sent == lineage or card.read_bytes() != made_card(folder, folder, lineage).encode())
    files[CARD] = card if kept else made_card(folder, folder, sent).encode("utf-8")
    files |= renamed
    files[LINEAGE_FILE] = dump_lineage(published(sent)).encode("utf-8")
    present = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = (path.as_posix() for path in present if not any(part.startswith(".") for part in path.parts))
    return Upload(repo, lineage.operation, files, tuple(sorted(name for name in shown if name not in files)))


def published(lineage: Lineage) -> Lineage:
    """The lineage with each parent as a folder of its name beside this one, and of paths in settings the last name:
    where things lay on this machine helps nobody elsewhere, and tells the names of folders."""

    def beside(held: Lineage) -> Lineage:
        parents = [
            parent.model_copy(
                update={
                    "path": f"../{PurePosixPath(parent.name.partition('@')[0]).name}",
                    "lineage": beside(parent.lineage) if parent.lineage is not None else None,
                }
            )
            for parent in held.parents
        ]
        return held.model_copy(update={"parents": parents, "settings": without_folders(held.settings)})

    return beside(without_places(lineage))


def _metrics(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in (folder / SURGEON_DIR).glob(f"{METRICS_PREFIX}*")]
