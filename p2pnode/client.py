"""The control socket, client side: what the command line, the REPL and the local network use to talk to a node.

What it is: one method per route, synchronous, over the standard library's HTTP client. What it is not: a place for logic; it returns
the node's JSON as it is.

For editors: keep the imports light (no trio, no torch, no structlog): a command must start in a blink. One connection per request, so
that an instance can be used from several threads.
"""

import contextlib
import http.client
import json
import os
import socket
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, cast

from p2pnode.errors import ExitCode, NoRunningNode, UserError, why
from p2pnode.home import SOCKET_PATH_BYTES_MAX, Home

READ_SECONDS_MAX = 10.0  # reads answer from memory; a node that takes longer is broken, and the operator must hear so
WATCH_SECONDS = 0.2  # between two looks at what a command has led to
COMMAND_SECONDS_MAX = 300.0  # a test waits for a round, an evaluation for the trainer
EXPORT_SECONDS_MAX = 3600.0  # eight billion parameters on a disk that writes ten megabytes a second
ANSWER_BYTES_MAX = 256 * 1024 * 1024  # ten thousand rounds of 256 contributors

Json = dict[str, Any]


class Client:
    """Talks to the node that runs in ``home``. Every method raises ``NoRunningNode`` if there is none."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def status(self) -> Json:
        return cast(Json, self._request("GET", "/status"))

    def peers(self) -> list[Json]:
        return cast(list[Json], self._request("GET", "/peers"))

    def rounds(self, last: int = 20) -> list[Json]:
        return cast(list[Json], self._request("GET", f"/rounds?last={last}"))

    def trace(self, height: int) -> Json:
        return cast(Json, self._request("GET", f"/trace/{height}"))

    def log(self, last: int = 20) -> list[Json]:
        return cast(list[Json], self._request("GET", f"/log?last={last}"))

    def evidence(self) -> list[Json]:
        return cast(list[Json], self._request("GET", "/evidence"))

    def train(self, rounds: int | None = None, *, since: int | None = None) -> Json:
        """Contribute until ``rounds`` heights after ``since`` (by default from now), or without end."""
        return cast(Json, self._request("POST", "/train", {"rounds": rounds, "since": since}))

    def pause(self) -> Json:
        return cast(Json, self._request("POST", "/pause"))

    def test(self) -> Json:
        """Send a probe of the model's size through one round and wait for its timings."""
        return cast(Json, self._request("POST", "/test"))

    def evaluate(self) -> Json:
        """The held-out loss of the current model, computed now."""
        return cast(Json, self._request("POST", "/evaluate"))

    def generate(self, prompt: str, settings: Mapping[str, object]) -> Generator[Json, None, None]:
        """A text as it comes: pieces with ``text``, ``tokens`` and, the last, the facts in ``ended``. Closed, it ends there, too."""
        piece = cast(Json, self._request("POST", "/generate", {"prompt": prompt, "settings": dict(settings)}))
        try:
            yield piece
            while piece["ended"] is None:
                piece = cast(Json, self._request("POST", "/generate/next", {"number": piece["number"]}))
                yield piece
        finally:
            if piece["ended"] is None:
                with contextlib.suppress(UserError):  # the node has ended, or will forget the text by itself
                    self._request("POST", "/generate/end", {"number": piece["number"]})

    def invite(self, heights: int | None = None) -> Json:
        """A token for one newcomer, good for ``heights`` heights."""
        return cast(Json, self._request("POST", "/invite", {"heights": heights}))

    def export(self, folder: Path) -> Json:
        """Write the agreed model of this moment into a folder, as transformers loads it."""
        body = {"folder": str(folder.absolute())}
        return cast(Json, self._request("POST", "/export", body, seconds_max=EXPORT_SECONDS_MAX))

    def parting(self) -> Json:
        """What leaving would leave behind."""
        return cast(Json, self._request("GET", "/leave"))

    def leave(self) -> Json:
        """Ask to be a member no longer; ``status`` shows when it is so."""
        return cast(Json, self._request("POST", "/leave"))

    def wait_left(self, *, timeout_seconds: float) -> int | None:
        """The height at which this node was seen to be no member any more, or None if the time is over before."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            status = self.status()
            if status["role"] != "member":
                return int(status["height"])
            time.sleep(WATCH_SECONDS)
        return None

    def stop(self) -> Json:
        """Ask the node to end; it answers before it does. ``home.wait_released`` waits for the end."""
        try:
            return cast(Json, self._request("POST", "/stop"))
        except _NodeEnded:
            return {}  # it was quicker to end than to answer

    def _request(
        self, method: str, path: str, body: Json | None = None, *, seconds_max: float = COMMAND_SECONDS_MAX
    ) -> object:
        timeout_seconds = READ_SECONDS_MAX if method == "GET" else seconds_max
        connection = _UnixConnection(self.home, timeout_seconds)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, body=payload, headers={"Connection": "close"})
            response = connection.getresponse()
            data = response.read(ANSWER_BYTES_MAX)
            if response.length:  # what the head promised and the body does not hold
                raise _NodeEnded(self.home)
        except TimeoutError:
            raise UserError(
                f"node in {self.home}: no answer within {timeout_seconds:.0f} s", f"see {self.home.log}"
            ) from None
        except (http.client.HTTPException, ConnectionResetError, BrokenPipeError):
            raise _NodeEnded(self.home) from None
        finally:
            connection.close()
        return _decode(response.status, data)


class _NodeEnded(NoRunningNode):
    """The node ended while it was asked, which is what ``stop`` in another terminal looks like."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, home: Home, timeout_seconds: float) -> None:
        super().__init__("p2pnode", timeout=timeout_seconds)
        self._home = home

    def connect(self) -> None:
        place = self._home.control_socket()
        if len(os.fsencode(place)) > SOCKET_PATH_BYTES_MAX:
            raise NoRunningNode(self._home)  # a running node would have named a shorter place
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(os.fspath(place))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NoRunningNode(self._home, pid=self._home.running_pid()) from None
        except PermissionError as error:
            raise UserError(f"{place}: {why(error)}", "only the user who started the node can talk to it") from error
        except OSError as error:
            raise UserError(f"{place}: {why(error)}", "see the node's log: p2pnode log") from error


def _decode(status: int, data: bytes) -> object:
    try:
        answer = json.loads(data)
    except ValueError:
        raise UserError(
            f"the node's answer is not JSON (HTTP {status})", "is this version of p2pnode the node's?"
        ) from None
    if status == 200:
        return answer
    refusal = answer if isinstance(answer, dict) else {}
    raise UserError(
        str(refusal.get("error", f"HTTP {status}")), str(refusal.get("hint", "")), exit_code=ExitCode.FAILED
    )
