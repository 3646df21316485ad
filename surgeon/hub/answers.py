"""What a hub, or the way to it, says: as a refusal of three lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from surgeon.errors import SurgeonError

_TOO_MANY, _ITS_OWN = 429, 500  # answers of HTTP: too many requests; from here on failures of the hub


@contextmanager
def told(repo: str) -> Iterator[None]:
    """Raise SurgeonError in place of what the library raises."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise SurgeonError("HF_HUB_OFFLINE is set: nothing is sent", repo, "unset it") from error
    except LocalTokenNotFoundError as error:
        raise SurgeonError("the hub asks who you are", repo, "set HF_TOKEN, or `hf auth login`") from error
    except (HfHubHTTPError, HTTPError, OSError, ValueError, RuntimeError) as error:
        status = _status(error)
        reason = " ".join(str(error).split()) or type(error).__name__
        again = "run it again: what arrived is not sent twice"
        if status in (401, 403):
            hint = "set HF_TOKEN to a token that may write there"
        elif status == _TOO_MANY:
            hint = f"wait {_wait(error)}, then {again}"
        elif "README.md" in reason:
            hint = "mend the head of README.md, or remove the file: it is made anew"
        else:
            hint = again
        if isinstance(error, HTTPError) and status is None:  # it may have taken all of it
            raise SurgeonError(f"no answer of the hub arrived: {reason}", repo, hint) from error
        raise SurgeonError(f"the hub did not take it: {reason}", repo, hint) from error


def is_unknown(error: Exception) -> bool:
    """Whether what was asked for may have been done all the same: there was no answer, or one of something between
    here and the hub."""
    status = _status(error)
    return status is None or status >= _ITS_OWN


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _wait(error: Any) -> str:
    """What the hub says of how long, in seconds or as a date."""
    given = str(error.response.headers.get("Retry-After") or "").strip()
    if not given:
        return "a few minutes"
    return f"{given} seconds" if given.isdecimal() else f"until {given}"
