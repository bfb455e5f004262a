"""The workbench's one family of errors: each says what was given, what was expected and how to mend it."""

from __future__ import annotations

from typing import NoReturn


class WorkbenchError(Exception):
    """Anything the workbench refuses to do, in words a reader can act on."""


class InputError(WorkbenchError, ValueError):
    """Arrays, parameters or texts of the wrong shape, kind or content."""


class NotFoundError(WorkbenchError, LookupError):
    """A model, SAE, corpus, task or file that is not where it was asked for."""


class IntegrityError(WorkbenchError, RuntimeError):
    """A file that is truncated, tampered with or of another format than it claims."""


class MismatchError(WorkbenchError, ValueError):
    """Two things that do not belong together: a model and an SAE, a store and a request to resume it."""


class StorageError(WorkbenchError, OSError):
    """A disk that is full, read-only or otherwise cannot take what has to be written."""


class OfflineError(WorkbenchError, ConnectionError):
    """Something that needs a network where there is none."""


def fail(kind: type[WorkbenchError], given: str, expected: str, mend: str, *, cause: BaseException | None = None) -> NoReturn:
    """Raise `kind` with the three sentences that every message of the workbench has.

    Parameters
    ----------
    kind : subclass of WorkbenchError
    given, expected, mend : str
        What was given, what was expected, what to do about it; without a full stop.
    cause : exception, optional
        The exception this one explains.
    """
    raise kind(f"{given}. Expected: {expected}. To mend it: {mend}.") from cause


class WorkbenchWarning(UserWarning):
    """Something worth knowing that does not stop the work: a mismatch of names, skipped files, a small sample."""
