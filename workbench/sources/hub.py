"""Can the Hugging Face hub be reached, and what does the cache hold? Files of a repository, without ever waiting long for a network.

1. `reachable` asks the hub's endpoint for its headers, in a thread that is given a few seconds (nothing else bounds a name lookup).
2. `fetch` brings the wanted files of a repository into the hub's cache, or takes them from it when the hub cannot be reached.
3. Every failure of the hub becomes one of the workbench's errors.

`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE` and the proxy variables work as everywhere else.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from workbench.errors import IntegrityError, NotFoundError, OfflineError, WorkbenchError, fail
from workbench.keeping import Setting

PROBE_SECONDS = 3.0
_REMEMBERED_SECONDS = 60.0
_TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_remembered: dict[str, tuple[float, bool]] = {}


def endpoint() -> str:
    """The hub's address, as huggingface_hub has it."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids the network."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def reachable(*, timeout: float = PROBE_SECONDS, fresh: bool = False) -> bool:
    """Whether the hub answers within `timeout` seconds; the answer is remembered for a minute unless `fresh`."""
    if is_offline():
        return False
    address, now = endpoint(), time.monotonic()
    if not fresh and address in _remembered and now - _remembered[address][0] < _REMEMBERED_SECONDS:
        return _remembered[address][1]
    answers: list[bool | Exception] = []
    thread = threading.Thread(target=_probe, args=(address, timeout, answers), daemon=True)
    thread.start()
    thread.join(timeout)
    _remembered[address] = (now, answers == [True])
    return answers == [True]


def _probe(address: str, timeout: float, answers: list[bool | Exception]) -> None:
    from huggingface_hub.utils import get_session

    try:
        get_session().head(address, timeout=timeout)
        answers.append(True)
    except Exception as error:  # in a thread nobody else can catch it, and whatever stops a probe means: not reachable
        answers.append(error)


def _go_offline() -> Callable[[], None]:
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    return lambda: setattr(constants, "HF_HUB_OFFLINE", before)


_offline = Setting(_go_offline)


def cache_only() -> contextlib.AbstractContextManager:
    """Make every library that uses huggingface_hub take files from its cache, instead of waiting for a network that is not there."""
    return _offline()


def fetch(repo_id: str, patterns: Sequence[str], *, ignore: Sequence[str] = (), revision: str | None = None) -> Path:
    """The folder of a repository's files in the hub's cache, downloaded where the hub can be reached.

    Parameters
    ----------
    repo_id : str
        `"name"` or `"owner/name"`.
    patterns, ignore : sequences of str
        Glob patterns of files to bring and not to bring.
    revision : str, optional
        Branch, tag or commit.

    Raises
    ------
    NotFoundError
        When the hub has no such repository or revision (or hides it from you).
    OfflineError
        When the hub cannot be reached and the cache does not hold the repository.
    """
    from huggingface_hub import snapshot_download

    with translated(repo_id, revision):
        folder = snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(ignore) or None,
                                   local_files_only=not reachable(), etag_timeout=10)
    return Path(folder)


@contextlib.contextmanager
def translated(what: str, revision: str | None = None) -> Iterator[None]:
    """Turn the hub client's exceptions into the workbench's.

    Raises
    ------
    NotFoundError, OfflineError, IntegrityError
    """
    from huggingface_hub import errors

    at = f" at revision {revision!r}" if revision else ""
    try:
        yield
    except WorkbenchError:
        raise
    except errors.GatedRepoError as error:
        fail(NotFoundError, f"{what!r} is gated and this account has not been granted access", "a repository you may read",
             "accept its terms on the hub and log in with `hf auth login`", cause=error)
    except errors.RevisionNotFoundError as error:
        fail(NotFoundError, f"{what!r} has no revision {revision!r}", "a branch, tag or commit of that repository",
             "check the revision", cause=error)
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        fail(NotFoundError, f"the hub has no {what!r} that you may read", "a Hugging Face id such as 'owner/name'",
             "check the spelling; for a private one log in with `hf auth login`", cause=error)
    except errors.RemoteEntryNotFoundError as error:
        fail(NotFoundError, f"{what!r}{at} lacks a file it should have ({error})", "a complete repository",
             "check the id and the revision", cause=error)
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        why = "HF_HUB_OFFLINE is set" if is_offline() else f"{endpoint()} does not answer"
        fail(OfflineError, f"{what!r}{at} is not wholly in the cache and cannot be downloaded ({why})", "a reachable hub or a cached copy",
             "connect (or set HF_ENDPOINT to a mirror), unset HF_HUB_OFFLINE, pass a local folder, or use an embedded name", cause=error)
    except errors.HfHubHTTPError as error:
        fail(OfflineError, f"the hub refused {what!r}{at} ({error})", "an answer with the files",
             "try again later, or pass a local folder", cause=error)
    except OSError as error:
        if _is_transport(error):
            fail(OfflineError, f"the connection broke while {what!r}{at} was downloaded ({error})", "a working network", "try again",
                 cause=error)
        raise
    except Exception as error:
        if not _is_transport(error):
            raise
        kind = IntegrityError if "Decode" in type(error).__name__ else OfflineError
        fail(kind, f"the connection broke while {what!r}{at} was downloaded ({type(error).__name__}: {error})", "a working network",
             "try again, or pass a local folder", cause=error)


def _is_transport(error: BaseException) -> bool:
    """Whether an exception comes from the hub client's HTTP library, whichever that is in the installed version."""
    return any(cls.__module__.split(".")[0] in _TRANSPORTS for cls in type(error).__mro__)
