"""One commit of a hub that holds a checkpoint as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.hub.upload import Upload

_KEPT = ".gitattributes"  # the hub's own: which files it stores as large ones


def push(
    upload: Upload, *, private: bool = False, revision: str | None = None, message: str | None = None,
    force: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Upload, and give {"repo", "revision", "commit", "url", "files", "bytes", "removed", "left"}.

    One commit: until it is made, readers of the repository see what was there before. A repository that is not there
    is made (private, where that is asked for), and so is a branch; one that holds files is refused unless `force`,
    which leaves nothing of the old content but .gitattributes. Raises SurgeonError where the hub refuses or cannot be
    reached, and where a repository is public that was to be private.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    with _told(upload.repo):
        head, held = _place(api, upload.repo, private, revision, force)
        removed = [name for name in held if name not in upload.files]
        added = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in upload.files.items()
        ]
        commit = api.create_commit(
            upload.repo,
            [*(CommitOperationDelete(name) for name in removed), *added],
            commit_message=message or f"surgeon {upload.operation}",
            revision=revision,
            parent_commit=head,
        )
    return {
        "repo": upload.repo,
        "revision": revision or "main",
        "commit": commit.oid,
        "url": f"{api.endpoint}/{upload.repo}",
        "files": len(upload.files),
        "bytes": upload.nbytes,
        "removed": removed,
        "left": list(upload.left),
    }


def _place(api: Any, repo: str, private: bool, revision: str | None, force: bool) -> tuple[str | None, list[str]]:
    """The commit to build on, and the files that are there; a repository or a branch that is not there is made."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        whole = api.repo_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private or None)
        whole = api.repo_info(repo)
    if private and not whole.private:
        raise SurgeonError(
            "this repository is there, and is public", repo, "make it private first, or leave out --private"
        )
    info, fresh = whole, False
    if revision is not None:
        try:
            info = api.repo_info(repo, revision=revision)
        except RevisionNotFoundError:
            api.create_branch(repo, branch=revision)
            info, fresh = api.repo_info(repo, revision=revision), True
    held = sorted(entry.rfilename for entry in info.siblings or [] if entry.rfilename != _KEPT)
    if held and not fresh and not force:
        raise SurgeonError(
            f"the repository holds {len(held)} files already",
            f"{repo} at {revision or 'main'}",
            "choose another name or --revision BRANCH, or --force to replace them in one commit",
        )
    return info.sha, held


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """What the hub or the way to it says, as a refusal of three lines."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise SurgeonError("HF_HUB_OFFLINE is set: nothing is sent", repo, "unset it") from error
    except LocalTokenNotFoundError as error:
        raise SurgeonError("the hub asks who you are", repo, "set HF_TOKEN, or `hf auth login`") from error
    except (HfHubHTTPError, HTTPError, OSError, ValueError, RuntimeError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = (
            "set HF_TOKEN to a token that may write there"
            if status in (401, 403)
            else "run it again: what arrived is not sent twice"
        )
        raise SurgeonError(f"the hub did not take it: {reason}", repo, hint) from error
