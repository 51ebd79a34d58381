"""What can go wrong, from the operator's side: one line that says what and why, one hint, one exit code.

What it is: the errors that reach a person, and the only place that turns them into text. What it is not: faults of peers; those
live in the transport, are counted, and never end a process.

For editors: a ``UserError`` names the thing at fault (file, flag, address) in its message and an action in its hint. A bug of ours is
a ``LocalFault`` and keeps its traceback. Messages are one line each, without a full stop.
"""

import errno
import os
from collections.abc import Iterator
from enum import IntEnum
from typing import Protocol, runtime_checkable


class ExitCode(IntEnum):
    """What the shell sees."""

    OK = 0
    FAILED = 1
    USAGE = 2
    SET_UP = 3
    NO_RUNNING_NODE = 4
    UNHEALTHY = 5
    INTERRUPTED = 130  # 128 + SIGINT, the shells' convention


class LocalFault(Exception):
    """A bug of ours: crash loudly, with the traceback."""


class UserError(Exception):
    """What the operator can repair: ``message`` is "what: why", ``hint`` is what to do."""

    def __init__(self, message: str, hint: str = "", *, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class SetUpError(UserError):
    """The node cannot start as it is set up: a port, a file, a setting, a damaged home."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, exit_code=ExitCode.SET_UP)


class NoRunningNode(UserError):
    """Nobody listens on the control socket of this home."""

    def __init__(self, home: object, *, pid: int | None = None) -> None:
        """``pid``: the process that holds the home's lock without answering, if there is one."""
        if pid is None:
            message, hint = f"no running node in {home}", "p2pnode start starts one; --home names another home"
        else:
            message = f"no running node in {home}: process {pid} is starting or ending there"
            hint = "try again in a moment"
        super().__init__(message, hint, exit_code=ExitCode.NO_RUNNING_NODE)


def render_error(error: UserError) -> str:
    """The one form of every error: ``error: what: why``, then ``hint: ...`` if there is one."""
    lines = [f"error: {_one_line(error.message)}"]
    if error.hint:
        lines.append(f"hint: {_one_line(error.hint)}")
    return "\n".join(lines)


def why(error: OSError) -> str:
    """The reason of an operating-system error in plain words, without its number and path."""
    text = error.strerror or (os.strerror(error.errno) if error.errno is not None else "") or str(error)
    return text[:1].lower() + text[1:]


def user_error(error: BaseException) -> UserError | None:
    """The error to show the operator for whatever ended a command, or None where only a traceback is honest.

    Looks inside exception groups (trio wraps every task's error in one): a group is the operator's business only if every error in
    it is, because a bug of ours must never hide behind a full disk.
    """
    found = [_as_user_error(leaf) for leaf in _leaves(error)]
    if not found or None in found:
        return None
    return found[0]


@runtime_checkable
class _ForTheUser(Protocol):
    """The libraries have user errors of their own form and class, because they know nothing of this package."""

    message: str
    hint: str


_DISK_HINTS = {
    errno.ENOSPC: "free some space and start again; nothing that was committed is lost",
    errno.EDQUOT: "free some space and start again; nothing that was committed is lost",
    errno.EACCES: "check who owns it and its mode",
    errno.EPERM: "check who owns it and its mode",
    errno.EROFS: "choose a writable home with --home",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the disk reports errors; move the home to another one",
}


def _as_user_error(error: BaseException) -> UserError | None:
    match error:
        case UserError():
            return error
        case _ForTheUser():
            return SetUpError(error.message, error.hint)
        case OSError() if error.errno in _DISK_HINTS:
            subject = f"{error.filename}: " if error.filename else "a file of this node: "
            return SetUpError(f"{subject}{why(error)}", _DISK_HINTS[error.errno])
        case _:
            return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _one_line(text: str) -> str:
    return " ".join(text.split())
