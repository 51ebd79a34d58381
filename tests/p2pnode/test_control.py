"""The control socket as raw HTTP: private, bounded, and never in the way of the node."""

import json
import socket
import stat
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

from model.limits import PROMPT_CHARACTERS_MAX
from p2pnode.client import Client
from p2pnode.control import BODY_BYTES_MAX, PROMPT_BODY_BYTES_MAX, serve_control
from p2pnode.errors import SetUpError
from p2pnode.home import Home

from .conftest import RunningNode, Target


def ask(node: RunningNode, request: bytes) -> tuple[int, dict[str, str]]:
    """Send raw bytes; return the status and the JSON answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(node.home.control_socket()))
        connection.sendall(request)
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body else {}


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_the_socket_is_the_owners_alone(node: RunningNode) -> None:
    place = node.home.control_socket()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700


def test_rounds_are_read_off_the_loop(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand of them take a tenth of a second, in which no vote would be counted."""
    threads = {}

    def noted(name: str, read: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            threads[name] = threading.get_ident()
            return read(*args)

        return call

    for name in ("rounds", "status"):
        monkeypatch.setattr(node.target, name, noted(name, getattr(node.target, name)))
    assert ask(node, get("/rounds?last=10000"))[0] == ask(node, get("/status"))[0] == 200
    assert threads["rounds"] != threads["status"]


def test_a_read_is_json(node: RunningNode) -> None:
    status, answer = ask(node, get("/status"))
    assert (status, answer["verdict"]) == (200, "healthy")


@pytest.mark.parametrize(
    ("request_bytes", "status", "error"),
    [
        (get("/nothing"), 404, "/nothing: no such route"),
        (get("/trace/99"), 404, "height 99: this node has no trace of it"),
        (get(f"/trace/{10**18 * 9}9"), 404, f"/trace/{10**18 * 9}9: no such route"),
        (get("/trace/-1"), 404, "/trace/-1: no such route"),
        (get("/rounds?last=0"), 400, "last: '0' is not valid"),
        (get("/rounds?last=x"), 400, "last: 'x' is not valid"),
        (get("/log?last=10001"), 400, "last: '10001' is not valid"),
        (get("/stop"), 405, "GET /stop: not allowed"),
        (post("/status", b""), 405, "POST /status: not allowed"),
        (post("/train", b"{"), 400, "the body is not JSON"),
        (post("/train", b"[" * 2000), 400, "the body is not JSON"),
        (post("/train", b"[]"), 400, "the body is not a JSON object"),
        (post("/train", b'{"rounds": 0}'), 400, "rounds: 0 is not valid"),
        (post("/train", b'{"rounds": true}'), 400, "rounds: True is not valid"),
        (post("/train", b'{"rounds": "9"}'), 400, "rounds: '9' is not valid"),
        (post("/train", b" " * (BODY_BYTES_MAX + 1)), 413, f"the body is longer than {BODY_BYTES_MAX} bytes"),
        (get("/generate"), 405, "GET /generate: not allowed"),
        (post("/generate", b"{}"), 400, "a text takes a prompt and settings"),
        (post("/generate", b'{"prompt": "x", "settings": [1]}'), 400, "a text takes a prompt and settings"),
        (post("/generate/next", b"{}"), 400, "number: missing"),
        (post("/generate/end", b'{"number": 0}'), 400, "number: 0 is not valid"),
        (post("/test", b""), 409, "test: one probe per 10 heights, the last was at height 9"),
    ],
)
def test_a_refusal_says_why_and_what_next(node: RunningNode, request_bytes: bytes, status: int, error: str) -> None:
    found, answer = ask(node, request_bytes)
    assert (found, answer["error"], set(answer)) == (status, error, {"error", "hint"})
    assert node.target.calls in ([], ["test"])


def test_a_bug_behind_a_route_is_an_answer_and_the_node_lives(node: RunningNode) -> None:
    status, answer = ask(node, get("/evidence"))
    assert (status, answer["error"]) == (500, "internal fault: ZeroDivisionError: a bug of ours")
    assert ask(node, get("/status"))[0] == 200


@pytest.mark.parametrize(
    "noise", [b"\x00\xff" * 100, b"GET /status HTTP/1.1\r\n" + b"X: y\r\n" * 9000, b"\x16\x03\x01\x02"]
)
def test_noise_ends_its_own_connection_only(node: RunningNode, noise: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(node.home.control_socket()))
        try:
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:
            pass
    assert ask(node, get("/status"))[0] == 200


def test_a_prompt_may_be_longer_than_a_command(node: RunningNode) -> None:
    """As long as a prompt of the most characters can be in JSON; not of the loop's time (it is decoded beside it)."""
    longest = PROMPT_BODY_BYTES_MAX - len(b'{"prompt": ""}')
    assert ask(node, post("/generate", b'{"prompt": "%s"}' % (b"x" * longest)))[0] == 200
    assert node.target.calls == [("generate", "x" * longest, {})]
    status, answer = ask(node, post("/generate", b" " * (PROMPT_BODY_BYTES_MAX + 1)))
    assert (status, answer["error"]) == (413, f"the body is longer than {PROMPT_BODY_BYTES_MAX} bytes")
    assert (
        len(json.dumps({"prompt": "\N{GRINNING FACE}" * PROMPT_CHARACTERS_MAX, "settings": {}}))
        <= PROMPT_BODY_BYTES_MAX
    )


def test_commands_reach_the_node(node: RunningNode) -> None:
    assert ask(node, post("/train", b'{"rounds": 5}')) == (200, {"state": "training", "until_height": 17})
    assert ask(node, post("/train", b"")) == (200, {"state": "training", "until_height": None})
    assert ask(node, post("/pause", b"")) == (200, {"state": "paused"})
    assert node.target.calls == [("train", 5), ("train", None), "pause"]


async def test_a_dead_processs_socket_is_replaced_and_none_is_left(home: Home) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home.place_control_socket()))
        dead.listen()
    async with trio.open_nursery() as nursery:
        place = await nursery.start(serve_control, Target(), home)
        assert (await trio.to_thread.run_sync(Client(home).status))["verdict"] == "healthy"
        nursery.cancel_scope.cancel()
    assert not place.exists()


async def test_a_socket_that_cannot_be_bound_is_one_line(home: Home) -> None:
    place = home.place_control_socket()
    place.mkdir()
    with pytest.raises(SetUpError, match=r"control socket .*: is a directory"):
        await serve_control(Target(), home)


async def test_ending_waits_for_no_request(home: Home) -> None:
    target = Target()
    answers: list[object] = []

    def evaluate() -> None:
        try:
            answers.append(Client(home).evaluate())
        except Exception as error:
            answers.append(type(error).__name__)

    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        await nursery.start(serve_control, target, home)
        outer.start_soon(trio.to_thread.run_sync, evaluate)
        await trio.to_thread.run_sync(target.testing.wait)
        nursery.cancel_scope.cancel()
    assert answers == ["_NodeEnded"]
    assert list(home.path.iterdir()) == []
