"""A model as a person names it: a local folder, else org/name[@revision] of the hub; `+` adds an adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from surgeon.checkpoint.journal import check_whole
from surgeon.checkpoint.no_weights import a_gguf
from surgeon.errors import SurgeonError, UsageError
from surgeon.settings import from_home

_HUB = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?$")
# what an operation reads or carries along; `surgeon/*` is what a lineage refers to
_PATTERNS = [
    "*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py", "surgeon/*",
    "README.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY.md",
]  # fmt: skip
# a second copy of the weights, in the maker's own format, of as many bytes again; checkpoints on the way to the model
_SECOND = ["consolidated*.safetensors", "original/*", "checkpoint-*/*"]


@dataclass(frozen=True)
class ModelRef:
    """`name` as given (hub id or folder name), the local folder, the hub revision that was resolved, an adapter."""

    name: str
    path: Path
    revision: str | None = None
    adapter: ModelRef | None = None


def resolve(text: str) -> ModelRef:
    """Find the folder of a reference; a path that exists wins, a hub id is downloaded (or taken from its cache).

    Raises SurgeonError when it is neither, or the hub cannot be reached.
    """
    text = from_home(text)
    if text and Path(text).exists():  # an empty path is the current folder to pathlib
        return _local(text)
    pair = halves(text)
    if pair is not None:
        model, adapter = pair
        found = resolve(model)
        return ModelRef(found.name, found.path, found.revision, resolve(adapter))
    if _HUB.match(text):
        return _download(text)
    raise _absent(text)


def name_and_revision(text: str) -> tuple[str, str | None]:
    """What other libraries are told in two: `org/name` and the revision that was asked for. A folder is itself, and
    they know no `~`."""
    place = from_home(text)
    if Path(place).exists() or not _HUB.match(text):
        return place, None
    name, _, revision = text.partition("@")
    return name, revision or None


def check_named(text: str) -> None:
    """Raise what resolve raises of a reference that can be no model, without asking the hub."""
    text = from_home(text)
    if text and Path(text).exists():
        _local(text)
    elif (pair := halves(text)) is not None:
        for half in pair:
            check_named(half)
    elif not _HUB.match(text):
        raise _absent(text)


def is_local(text: str) -> bool:
    """Whether a reference is of folders that are there, so that `resolve` asks nobody."""
    text = from_home(text)
    if text and Path(text).exists():
        return True
    pair = halves(text)
    return pair is not None and all(map(is_local, pair))


def _absent(text: str) -> SurgeonError:
    return SurgeonError(
        "there is no such folder", text or "an empty name", "give a local folder, or org/name[@revision] of the hub"
    )


def resolve_plain(text: str, what: str) -> ModelRef:
    """As resolve, of a model without an adapter. Raises UsageError on one with an adapter, which `what` (a noun)
    would pass over in silence."""
    found = resolve(text)
    if found.adapter is not None:
        raise UsageError(
            f"{what} is of the bytes of one folder: the adapter would be passed over",
            text,
            "fold it first: surgeon fold-adapter MODEL+ADAPTER OUT",
        )
    return found


def halves(text: str) -> tuple[str, str] | None:
    """MODEL and ADAPTER of `MODEL+ADAPTER`: at the last `+`, unless folders whose names hold one say it is another."""
    found = [(text[: m.start()], text[m.end() :]) for m in re.finditer(r"\+", text)]
    found = [(from_home(model), from_home(adapter)) for model, adapter in found if model and adapter]
    there = [pair for pair in found if all(map(_is_folder, pair))]
    return there[-1] if there else found[-1] if found else None


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # a text that is longer than any name
        return False


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _local(text: str) -> ModelRef:
    path = Path(text)
    if not _is_text(str(path.absolute())):  # it is recorded in files of text, and other libraries are given it as text
        raise SurgeonError(
            "the path is not text: it holds bytes that the encoding of file names does not have",
            text,
            "rename the folder; where the locale is not UTF-8, PYTHONUTF8=1 makes it so",
        )
    if not path.is_dir():
        if path.suffix == ".gguf":
            raise a_gguf(path.name, text)
        raise SurgeonError("this is a file; a checkpoint is a folder", text, "give the folder that holds it")
    check_whole(path)
    return ModelRef(path.absolute().name, path)


def _download(text: str) -> ModelRef:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    name, _, revision = text.partition("@")
    try:
        path = snapshot_download(name, revision=revision or None, allow_patterns=_PATTERNS, ignore_patterns=_SECOND)
    except HFValidationError as error:
        raise SurgeonError(
            f"there is no such folder, and this can be no model of the hub: {_reason(error)}", text, "check the name"
        ) from error
    except (HfHubHTTPError, HTTPError, OSError, RuntimeError) as error:
        broke_off = isinstance(error, HTTPError | RuntimeError) and not isinstance(error, HfHubHTTPError)
        raise SurgeonError(
            f"there is no folder {text!r}, and the hub does not give such a model: {_reason(error)}",
            text,
            "run it again: what arrived is not fetched twice"
            if broke_off
            else "check the path or the name; set HF_TOKEN for a gated model",
        ) from error
    return ModelRef(text, Path(path), Path(path).name)


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
