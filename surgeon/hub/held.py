"""Whether a repository of a hub holds the files that are to go there already, by what its listing says of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

KEPT = ".gitattributes"  # the hub's own: which files it stores as large ones
_PAUSES = (0, 2, 4, 8)  # seconds; a hub may be at work on a commit whose answer nobody waited for


def holds(api: Any, repo: str, commit: str, added: Sequence[Any]) -> bool:
    """Whether the commit holds these files (CommitOperationAdd) and no other but .gitattributes, byte for byte: large
    files by their SHA-256, others by the SHA-1 that git gives them."""
    from huggingface_hub.hf_api import RepoFile

    there = {e.path: e for e in api.list_repo_tree(repo, recursive=True, revision=commit) if isinstance(e, RepoFile)}
    here = {entry.path_in_repo: entry for entry in added}
    if not here.keys() <= there.keys() or not there.keys() - here.keys() <= {KEPT}:
        return False
    return all(_is_same(entry, there[name]) for name, entry in here.items())


def found_later(api: Any, repo: str, revision: str | None, added: Sequence[Any]) -> str | None:
    """The commit that the branch (None: main) is at, if it holds these files; asked for several times, since the hub
    may not be done. None where it does not, or cannot be asked: it is the first error that is told."""
    from huggingface_hub.errors import HTTPError

    for pause in _PAUSES:
        time.sleep(pause)
        try:
            commit = str(api.repo_info(repo, revision=revision).sha)
            if holds(api, repo, commit, added):
                return commit
        except (HTTPError, OSError, ValueError):
            continue
    return None


def _is_same(entry: Any, held: Any) -> bool:
    if entry.upload_info.size != held.size:
        return False
    if held.lfs is not None:
        return bool(entry.upload_info.sha256.hex() == held.lfs.sha256)
    digest = hashlib.sha1(b"blob %d\0" % held.size, usedforsecurity=False)
    with entry.as_file() as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest() == str(held.blob_id)
