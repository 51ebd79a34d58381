"""Logging: short lines for a person on stderr, JSON lines in the home for everything else.

What it is: structlog's set-up, two writers on threads of their own, and the ring of recent records that ``log`` shows. What it is
not: a place for data; metrics and state are read over the control socket.

For editors: whoever logs never waits. A record is put into bounded queues; a terminal that is stopped or a disk that hangs loses
lines, which are counted and said, and never holds up a round. Values may come from strangers: what reaches a terminal is escaped.
"""

import json
import logging.handlers
import math
import os
import queue
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Protocol

import structlog

from p2pnode.errors import SetUpError, why
from p2pnode.home import Home
from p2pnode.render import log_line

FILE_BYTES_MAX = 8 * 1024 * 1024  # some days of a busy node at level info
FILES_KEPT = 3  # beside the current one
QUEUE_RECORDS_MAX = 10_000  # a burst of a busy second; about 10 MB at most
RECENT_RECORDS_MAX = 1_000  # what `log --last` can reach in a running node
VALUE_CHARACTERS_MAX = 2_000  # one value of one record; a peer's text cannot fill the disk
FLUSH_SECONDS_MAX = 0.5  # what the end of the process grants to a terminal that does not take lines

Record = dict[str, Any]


class Logger(Protocol):
    """What the rest of the program needs of a logger: ``log.info("peer connected", peer=..., direction=...)``."""

    def debug(self, event: str, /, **values: Any) -> Any: ...
    def info(self, event: str, /, **values: Any) -> Any: ...
    def warning(self, event: str, /, **values: Any) -> Any: ...
    def error(self, event: str, /, **values: Any) -> Any: ...
    def exception(self, event: str, /, **values: Any) -> Any: ...


def get_logger(**values: Any) -> Logger:
    """A logger whose records all carry ``values``. Before ``logging_to`` it writes nothing."""
    logger: Logger = structlog.get_logger(**values)
    return logger


def recent(last: int) -> list[Record]:
    """The newest ``last`` records of this process, oldest first."""
    records = list(_recent)
    return records[-last:] if last > 0 else []


def read_log(path: Path, last: int) -> list[Record]:
    """The newest ``last`` records of a log file, oldest first, without a running node. Lines cut by a crash are left out."""
    tail: deque[Record] = deque(maxlen=last)
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if (record := _record(line)) is not None:
                    tail.append(record)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SetUpError(f"{path}: {why(error)}", "check who owns it and its mode") from error
    return list(tail)


@contextmanager
def logging_to(home: Home, level: str, *, coloured: bool | None = None) -> Iterator[None]:
    """Log to stderr and to the home's log file while the block runs; flushed at its end."""
    try:
        handler = _File(home.log, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8")
    except OSError as error:
        raise SetUpError(f"{home.log}: {why(error)}", "check who owns it and its mode") from error
    use_colour = sys.stderr.isatty() if coloured is None else coloured
    file_writer = _Writer("log-file", lambda record: _emit(handler, _json(record)))
    # sys.stderr is looked up for each line: the REPL replaces it so that lines appear above the prompt.
    console_writer = _Writer("log-console", lambda record: _print(log_line(record, coloured=use_colour)))
    _configure(level, [file_writer, console_writer])
    try:
        yield
    finally:
        structlog.reset_defaults()
        _silence()
        for writer in (file_writer, console_writer):
            writer.close(timeout_seconds=FLUSH_SECONDS_MAX)
        handler.close()


_recent: deque[Record] = deque(maxlen=RECENT_RECORDS_MAX)


class _Writer:
    """One daemon thread that takes records from a bounded queue, so that no caller ever waits for a disk or a terminal."""

    def __init__(self, name: str, write: Callable[[Record], None]) -> None:
        self._write = write
        self._queue: queue.Queue[Record | None] = queue.Queue(QUEUE_RECORDS_MAX)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def close(self, *, timeout_seconds: float) -> None:
        try:
            self._queue.put(None, timeout=timeout_seconds)
        except queue.Full:
            return
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            try:
                if self._dropped:
                    lost, self._dropped = self._dropped, 0
                    self._write({**record, "level": "warning", "event": "log lines lost", "count": lost})
                self._write(record)
            except (OSError, ValueError):
                # The terminal is gone or the disk is full; whoever needs to know learns it from the operation that failed.
                self._dropped += 1


class _File(logging.handlers.RotatingFileHandler):
    """The standard library's rotation; its files are the owner's alone, and its errors are ours to count, not to print."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return open(descriptor, "a", encoding="utf-8")  # noqa: PTH123 - a descriptor has no path; the handler closes

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        raise  # noqa: PLE0704 - called from an except block


class _Emitter:
    """structlog's innermost logger: every level ends here with the finished record."""

    def __init__(self, writers: list[_Writer]) -> None:
        self._writers = writers

    def emit(self, **record: Any) -> None:
        _recent.append(record)
        for writer in self._writers:
            writer.put(record)

    debug = info = warning = error = exception = critical = emit


def _configure(level: str, writers: list[_Writer]) -> None:
    structlog.configure(
        processors=[_finish],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: _Emitter(writers),
        cache_logger_on_first_use=False,  # loggers made at import must follow a later set-up
    )


def _silence() -> None:
    """Libraries log before and after the node's life (tests, other commands): nobody asked, nothing is written."""
    structlog.configure(processors=[_finish], logger_factory=lambda *_: _Emitter([]))


def _finish(_logger: object, level: str, values: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Put time, level and event first, and make every value JSON of bounded length."""
    error = values.pop("exc_info", None)
    record: Record = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": "error" if level in ("exception", "critical") else level,
        "event": str(values.pop("event", "")),
    }
    record.update({key: _plain(value) for key, value in values.items()})
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        record["error"] = f"{type(error).__name__}: {error}"
        record["traceback"] = "".join(traceback.format_exception(error))
    return record


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)  # NaN is not JSON
        case bytes():
            value = value.hex()
        case list() | tuple():
            return [_plain(item) for item in value[:100]]
        case _:
            value = str(value)
    return value if len(value) <= VALUE_CHARACTERS_MAX else value[:VALUE_CHARACTERS_MAX] + "..."


def _record(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _json(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def _emit(handler: logging.Handler, line: str) -> None:
    handler.handle(logging.LogRecord("p2pnode", logging.INFO, "", 0, line, None, None))


def _print(line: str) -> None:
    stream = sys.stderr
    if stream is not None:
        stream.write(line + "\n")
        stream.flush()


_silence()
