"""The control socket, server side: HTTP over a unix socket in the home, for the owner alone.

What it is: hypercorn's trio worker and one small ASGI application that turns requests into calls of a ``ControlTarget``. What it is
not: a network service. The socket's mode (0600, in a directory that is the owner's) is the whole access control: the kernel lets
nobody else connect, so there is no token to lose.

For editors: a route is one entry in ``_READS`` or ``_COMMANDS``. Answers are JSON; a refusal is ``{"error", "hint"}`` with a fitting
status. A bug behind a route answers 500 and is logged with its traceback; it does not take a voting node down.
"""

import json
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import hypercorn.config
import hypercorn.logging
import hypercorn.trio
import trio

from model.limits import PROMPT_CHARACTERS_MAX
from p2pnode.errors import SetUpError, UserError, why
from p2pnode.home import Home
from p2pnode.logs import get_logger
from transport.machine import in_thread

BODY_BYTES_MAX = (
    16384  # the longest of the usual commands is {"folder": PATH}: 4,096 bytes, of three characters of JSON each
)
PROMPT_BODY_BYTES_MAX = (
    12 * PROMPT_CHARACTERS_MAX + BODY_BYTES_MAX
)  # twelve bytes are what JSON makes of a character at most
_DECODE_BYTES = 64 * 1024  # a millisecond of the loop; longer bodies are decoded beside it
LAST_MAX = 10_000  # rounds or log lines in one answer: a screenful is 50, a week of one-minute rounds 10,080
HEIGHT_MAX = 2**63 - 1  # what the chain's database holds
ROUNDS_MAX = 10**9  # of one `train N`
IDLE_SECONDS_MAX = 5  # a connection without a request

Answer = Mapping[str, Any]


class ControlTarget(Protocol):
    """What the node offers to its owner. Reads answer at once from memory; commands may wait for the node.

    Any method may raise ``UserError``; it reaches the caller as 409 with its hint.
    """

    def status(self) -> Answer: ...
    def peers(self) -> list[Answer]: ...
    def rounds(self, last: int) -> list[Answer]: ...
    def trace(self, height: int) -> Answer | None: ...
    def log(self, last: int) -> list[Answer]: ...
    def evidence(self) -> list[Answer]: ...
    async def train(self, rounds: int | None, *, since: int | None = None) -> Answer: ...
    async def pause(self) -> Answer: ...
    async def test(self) -> Answer: ...
    async def evaluate(self) -> Answer: ...
    async def generate(self, prompt: str, settings: Answer) -> Answer: ...
    async def generate_next(self, number: int) -> Answer: ...
    async def generate_end(self, number: int) -> Answer: ...
    async def invite(self, heights: int | None) -> Answer: ...
    async def export(self, folder: Path) -> Answer: ...
    def parting(self) -> Answer: ...
    async def leave(self) -> Answer: ...
    async def stop(self) -> Answer: ...


async def serve_control(
    target: ControlTarget, home: Home, *, task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled; started with the socket's path. The caller holds the home's lock, so a socket found is a dead one's."""
    listener, place = _bind(home)
    config = hypercorn.config.Config()
    # hypercorn takes the descriptor over and closes it; the private directory and mode are set before it listens.
    config.bind = [f"fd://{listener.detach()}"]
    config.logger_class = _HypercornLog
    config.keep_alive_timeout = IDLE_SECONDS_MAX
    config.graceful_timeout = 0
    config.include_server_header = False
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(hypercorn.trio.serve, application(target), config)
            task_status.started(place)
    finally:
        home.remove_control_socket()


def _bind(home: Home) -> tuple[socket.socket, Path]:
    place = home.place_control_socket()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        place.unlink(missing_ok=True)
        listener.bind(str(place))
        place.chmod(0o600)  # nobody can connect before listen(), so there is no moment in which others could
    except OSError as error:
        listener.close()
        raise SetUpError(f"control socket {place}: {why(error)}", "check the home's owner and mode") from error
    return listener, place


# --- the application -----------------------------------------------------------------------------------------------------------

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class _Refused(Exception):
    def __init__(self, status: int, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.status, self.error, self.hint = status, error, hint


def application(target: ControlTarget) -> Any:
    """The ASGI application; ``Any`` because hypercorn's own types are wider than what reaches an HTTP/1.1 socket."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                status, answer = await _answer(target, scope, receive)
                await _send_json(send, status, answer)
            case "lifespan":
                await _lifespan(receive, send)
            case _:
                pass  # no websockets: returning without an answer closes the connection

    return app


async def _answer(target: ControlTarget, scope: Scope, receive: Receive) -> tuple[int, object]:
    try:
        return 200, await _route(target, scope, receive)
    except _Refused as refused:
        return refused.status, {"error": refused.error, "hint": refused.hint}
    except UserError as error:
        return 409, {"error": error.message, "hint": error.hint}
    except Exception as error:
        get_logger().exception("control request failed", path=scope["path"])
        return 500, {"error": f"internal fault: {type(error).__name__}: {error}", "hint": "p2pnode log has the details"}


async def _route(target: ControlTarget, scope: Scope, receive: Receive) -> object:
    method, path = scope["method"], scope["path"]
    if method == "GET" and (read := _READS.get(path)) is not None:
        query = _query(scope["query_string"])
        return await in_thread(read, target, query) if path in _OFF_THE_LOOP else read(target, query)
    if method == "GET" and (match := re.fullmatch(r"/trace/([0-9]{1,19})", path)) is not None:
        return _trace(target, int(match[1]))
    if method == "POST" and (command := _COMMANDS.get(path)) is not None:
        return await command(target, await _body(receive, bytes_max=_LONG_BODIES.get(path, BODY_BYTES_MAX)))
    if path in _READS or path in _COMMANDS:
        raise _Refused(405, f"{method} {path}: not allowed", "GET reads, POST commands")
    raise _Refused(404, f"{path}: no such route", f"routes: {' '.join([*_READS, '/trace/HEIGHT', *_COMMANDS])}")


def _trace(target: ControlTarget, height: int) -> Answer:
    answer = target.trace(height) if height <= HEIGHT_MAX else None
    if answer is None:
        raise _Refused(
            404, f"height {height}: this node has no trace of it", "p2pnode rounds lists the heights it knows"
        )
    return answer


async def _train(target: ControlTarget, body: Mapping[str, Any]) -> Answer:
    rounds = _whole_number(body, "rounds", low=1, high=ROUNDS_MAX)
    since = _whole_number(body, "since", low=0, high=HEIGHT_MAX - ROUNDS_MAX)
    return await target.train(rounds, since=since)


async def _generate(target: ControlTarget, body: Mapping[str, Any]) -> Answer:
    prompt, settings = body.get("prompt"), body.get("settings", {})
    if not isinstance(prompt, str) or not isinstance(settings, dict):
        raise _Refused(400, "a text takes a prompt and settings", '{"prompt": TEXT, "settings": {"max_tokens": 20}}')
    return await target.generate(prompt, settings)


def _number(body: Mapping[str, Any]) -> int:
    number = _whole_number(body, "number", low=1, high=HEIGHT_MAX)
    if number is None:
        raise _Refused(400, "number: missing", "/generate gives each text a number")
    return number


def _whole_number(body: Mapping[str, Any], key: str, *, low: int, high: int) -> int | None:
    value = body.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
        raise _Refused(400, f"{key}: {value!r} is not valid", f"it takes a whole number from {low} to {high}, or null")
    return value


async def _export(target: ControlTarget, body: Mapping[str, Any]) -> Answer:
    folder = body.get("folder")
    if not isinstance(folder, str) or not Path(folder).is_absolute() or "\0" in folder:
        raise _Refused(400, "folder: not valid", "it takes an absolute path")
    return await target.export(Path(folder))


_READS: Mapping[str, Callable[[ControlTarget, Mapping[str, str]], object]] = {
    "/status": lambda target, _: target.status(),
    "/peers": lambda target, _: target.peers(),
    "/rounds": lambda target, query: target.rounds(_last(query)),
    "/log": lambda target, query: target.log(_last(query)),
    "/evidence": lambda target, _: target.evidence(),
    "/leave": lambda target, _: target.parting(),
}
_OFF_THE_LOOP = {"/rounds"}  # reads only the chain file, which any thread may

_COMMANDS: Mapping[str, Callable[[ControlTarget, Mapping[str, Any]], Awaitable[Answer]]] = {
    "/train": _train,
    "/pause": lambda target, _: target.pause(),
    "/test": lambda target, _: target.test(),
    "/evaluate": lambda target, _: target.evaluate(),
    "/generate": _generate,
    "/generate/next": lambda target, body: target.generate_next(_number(body)),
    "/generate/end": lambda target, body: target.generate_end(_number(body)),
    "/invite": lambda target, body: target.invite(_whole_number(body, "heights", low=1, high=HEIGHT_MAX)),
    "/export": _export,
    "/leave": lambda target, _: target.leave(),
    "/stop": lambda target, _: target.stop(),
}
_LONG_BODIES = {"/generate": PROMPT_BODY_BYTES_MAX}


# --- reading and writing -------------------------------------------------------------------------------------------------------


def _query(text: bytes) -> Mapping[str, str]:
    pairs = (part.partition("=") for part in text.decode("ascii", "replace").split("&") if part)
    return {key: value for key, _, value in pairs}


def _last(query: Mapping[str, str]) -> int:
    text = query.get("last", "20")
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= LAST_MAX:
        raise _Refused(400, f"last: {text!r} is not valid", f"it takes a whole number from 1 to {LAST_MAX}")
    return int(text)


async def _body(receive: Receive, *, bytes_max: int) -> Mapping[str, Any]:
    data = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise _Refused(400, "the request ended early")
        data += event.get("body", b"")
        if len(data) > bytes_max:
            raise _Refused(413, f"the body is longer than {bytes_max} bytes")
        if not event.get("more_body", False):
            break
    try:
        document = bytes(data) or b"{}"
        body = json.loads(document) if len(document) <= _DECODE_BYTES else await in_thread(json.loads, document)
    except (ValueError, RecursionError):
        raise _Refused(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise _Refused(400, "the body is not a JSON object")
    return cast(Mapping[str, Any], body)


def _encode(answer: object) -> bytes:
    return json.dumps(answer, default=str).encode()


async def _send_json(send: Send, status: int, answer: object) -> None:
    # A list may be ten thousand rounds long: a tenth of a second in which no vote would be counted.
    data = await in_thread(_encode, answer) if isinstance(answer, list) else _encode(answer)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


class _HypercornLog(hypercorn.logging.Logger):
    """hypercorn's own lines go into our log at level debug; its "Running on" is no news to an operator."""

    def __init__(self, config: hypercorn.config.Config) -> None:
        config.errorlog = config.accesslog = None
        super().__init__(config)

    async def exception(self, message: str, *args: Any, **kwargs: Any) -> None:
        get_logger().exception("control server failed", reason=message % args if args else message)

    async def warning(self, message: str, *args: Any, **kwargs: Any) -> None:
        get_logger().debug("control server", reason=message % args if args else message)
