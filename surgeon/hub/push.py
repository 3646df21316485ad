"""One commit of a hub that holds a checkpoint as a whole."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.hub.answers import is_unknown, told
from surgeon.hub.held import KEPT, found_later, holds
from surgeon.hub.upload import Upload

_IGNORES, _NOTHING = ".gitignore", "# every file belongs here\n"


def push(
    upload: Upload, *, private: bool = False, revision: str | None = None, message: str | None = None,
    force: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Upload, and give {"repo", "revision", "commit", "url", "files", "bytes", "removed", "left", "sent"}.

    One commit: until it is made, readers of the repository see what was there before. A repository that is not there
    is made (private, where that is asked for), and so is a branch; one that holds files is refused unless `force`,
    which leaves nothing of the old content but .gitattributes. One that holds these very files is left as it is, and
    "sent" is false. A commit whose answer was lost is looked for on the hub. Raises SurgeonError where the hub refuses
    or cannot be reached, and where a repository is public that was to be private. A branch that was made is taken away
    again where no commit came of it.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HTTPError

    api = HfApi()
    with told(upload.repo), ExitStack() as undo:
        repo, head, held, fresh = _place(api, upload.repo, private, revision)
        added = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in upload.files.items()
        ]
        if not fresh and head is not None and holds(api, repo, head, added):
            return _result(upload, api, repo, revision, head, [], sent=False)
        if held and not fresh and not force:
            raise SurgeonError(
                f"the repository holds {len(held)} files already",
                f"{upload.repo} at {revision or 'main'}",
                "choose another name or --revision BRANCH, or --force to replace them in one commit",
            )
        removed = [name for name in held if name not in upload.files]
        if fresh or _IGNORES in held:
            # Sent before there is a branch, which would hold the files of main if this broke off. A .gitignore that
            # lies there would have the library leave out files without a word; it is given another one.
            api.preupload_lfs_files(
                repo, added, revision=None if fresh else revision, free_memory=False, gitignore_content=_NOTHING
            )
        if fresh and revision is not None:
            try:
                api.create_branch(repo, branch=revision)
            except HTTPError as error:
                if is_unknown(error):
                    _take_away(api, repo, revision)
                raise
            undo.callback(_take_away, api, repo, revision)
        try:
            commit = api.create_commit(
                repo,
                [*(CommitOperationDelete(name) for name in removed), *added],
                commit_message=message or f"surgeon {upload.operation}",
                revision=revision,
                parent_commit=head,
            ).oid
        except (HTTPError, ValueError) as error:
            landed = found_later(api, repo, revision, added) if is_unknown(error) else None
            if landed is None:
                raise
            commit = landed
        undo.pop_all()
    return _result(upload, api, repo, revision, commit, removed, sent=True)


def _result(
    upload: Upload, api: Any, repo: str, revision: str | None, commit: str, removed: list[str], *, sent: bool
) -> dict[str, Any]:
    return {
        "repo": repo,
        "revision": revision or "main",
        "commit": commit,
        "url": f"{api.endpoint}/{repo}",
        "files": len(upload.files),
        "bytes": upload.nbytes,
        "removed": removed,
        "left": list(upload.left),
        "sent": sent,
    }


def _place(api: Any, name: str, private: bool, revision: str | None) -> tuple[str, str | None, list[str], bool]:
    """What the repository is called now, the commit to build on, the files that are there, and whether the branch
    still is to be made (of main). A repository that is not there is made."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        whole = api.repo_info(name)
    except GatedRepoError:  # it is there, and is one "not found" to the library
        raise
    except RepositoryNotFoundError:
        api.create_repo(name, private=private or None)
        whole = api.repo_info(name)
    if private and not whole.private:
        raise SurgeonError(
            "this repository is there, and is public", name, "make it private first, or leave out --private"
        )
    info, fresh = whole, False
    if revision is not None:
        try:
            info = api.repo_info(name, revision=revision)
        except RevisionNotFoundError:
            fresh = True
    held = sorted(entry.rfilename for entry in info.siblings or [] if entry.rfilename != KEPT)
    return whole.id, info.sha, held, fresh


def _take_away(api: Any, repo: str, branch: str) -> None:
    """A branch that was made here. Where that fails too, it is the first error that is told."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    with suppress(HfHubHTTPError, HTTPError, OSError):
        api.delete_branch(repo, branch=branch)
