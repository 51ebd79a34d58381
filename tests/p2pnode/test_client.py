"""The client: every route, and one clear error when nobody is there."""

import socket
import subprocess
import sys

import pytest

from p2pnode.client import Client
from p2pnode.errors import ExitCode, NoRunningNode, UserError
from p2pnode.home import Home

from .conftest import NODE, RunningNode


def test_every_read(node: RunningNode) -> None:
    client = node.client
    assert client.status()["height"] == 12
    assert client.peers()[0]["node"] == NODE
    assert [r["height"] for r in client.rounds(3)] == [10, 11, 12]
    assert len(client.trace(7)["rows"]) == 9
    assert len(client.log(5)) == 5
    with pytest.raises(UserError, match="internal fault"):
        client.evidence()


def test_every_command(node: RunningNode) -> None:
    client = node.client
    assert client.train(3)["until_height"] == 15
    assert client.train(3, since=0)["until_height"] == 3
    assert client.pause() == {"state": "paused"}
    with pytest.raises(UserError, match="one probe") as caught:
        client.test()
    assert caught.value.hint == "try again at height 19"
    client.stop()
    assert node.home.wait_released(timeout_seconds=10)
    with pytest.raises(NoRunningNode):
        client.status()


def test_a_text_comes_in_pieces(node: RunningNode) -> None:
    pieces = list(node.client.generate("a\x00b\ud800", {"max_tokens": 4}))
    assert [piece["text"] for piece in pieces] == ["to be\nor ", "not"] and pieces[1]["ended"]["tokens"] == 4
    assert node.target.calls == [("generate", "a\x00b\ud800", {"max_tokens": 4}), ("generate_next", 7)]


def test_who_wants_no_more_of_a_text_says_so(node: RunningNode) -> None:
    pieces = node.client.generate("on and on", {})
    assert [next(pieces)["text"] for _ in range(3)] == ["to be\nor ", "not", "not"]
    pieces.close()
    assert node.target.calls[-1] == ("generate_end", 7)


def test_no_node_no_home_and_a_dead_socket_are_the_same_news(home: Home) -> None:
    for place in (home, Home(home.path / "none"), Home(home.path / ("x" * 150))):
        with pytest.raises(NoRunningNode) as caught:
            Client(place).status()
        assert caught.value.exit_code == ExitCode.NO_RUNNING_NODE
        assert caught.value.message == f"no running node in {place}"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home.place_control_socket()))
    with pytest.raises(NoRunningNode):
        Client(home).status()


def test_a_node_that_is_not_ready_is_told_apart(home: Home) -> None:
    with home.locked(), pytest.raises(NoRunningNode, match="is starting or ending there"):
        Client(home).status()


def test_it_stays_light() -> None:
    """Rule of client.py: a command starts in a blink, so neither torch nor trio nor the prompt may come along."""
    code = "import sys, p2pnode.cli, p2pnode.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "trio", "numpy", "prompt_toolkit", "structlog", "asyncio", "hypercorn", "rich"} & set(loaded)
