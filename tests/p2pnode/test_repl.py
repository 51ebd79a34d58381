"""The prompt, driven through prompt_toolkit's own pipe input: keys in, screen out, real control socket behind."""

import io
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import AsyncMock

import pytest
import trio
from prompt_toolkit.application import get_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from p2pnode import repl as repl_module
from p2pnode.client import Client
from p2pnode.errors import UserError
from p2pnode.home import Home
from p2pnode.repl import COMMANDS, Repl, execute, run_repl, run_repl_in_thread

from .conftest import FACTS, RunningNode

ENTER, CTRL_C, CTRL_D, TAB, UP = "\r", "\x03", "\x04", "\t", "\x1b[A"


class Screen(io.StringIO):
    """What the terminal was sent; ``saw`` waits for words without sleeping. It answers where the cursor is, as terminals do."""

    encoding = "utf-8"

    def __init__(self, keyboard: PipeInput) -> None:
        super().__init__()
        self._keyboard = keyboard
        self._changed = threading.Condition()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._changed:
            count = super().write(text)
            self._changed.notify_all()
        if "\x1b[6n" in text:
            self._keyboard.send_text("\x1b[1;1R")
        return count

    def saw(self, words: str, *, after: int = 0) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: words in self.getvalue()[after:], timeout=10)

    def __len__(self) -> int:
        return len(self.getvalue())


class Terminal:
    """A terminal with a keyboard, and prompts running on a thread that is not the main one."""

    def __init__(self, keyboard: PipeInput) -> None:
        self._keyboard = keyboard
        self.screen = Screen(keyboard)
        self._threads: list[threading.Thread] = []

    def run(self, target: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=target)
        thread.start()
        self._threads.append(thread)
        return thread

    def type(self, keys: str) -> None:
        self._keyboard.send_text(keys)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with create_pipe_input() as keyboard:
        terminal = Terminal(keyboard)
        output = Vt100_Output(terminal.screen, lambda: Size(rows=40, columns=160), term="xterm")
        # The process-wide session, as on a real terminal: threads that print do not inherit any other.
        session = get_app_session()
        monkeypatch.setattr(session, "_input", keyboard)
        monkeypatch.setattr(session, "_output", output)
        yield terminal
        for thread in terminal._threads:
            thread.join(10)
            assert not thread.is_alive(), "a prompt outlived its test"


def ended(thread: threading.Thread) -> bool:
    thread.join(10)
    return not thread.is_alive()


def test_a_command_and_its_answer(node: RunningNode, terminal: Terminal) -> None:
    left: list[str] = []
    thread = terminal.run(lambda: run_repl(node.client, on_quit=lambda: left.append("quit")))
    terminal.type("stats" + ENTER)
    assert terminal.screen.saw("healthy: height 12 decided")
    terminal.type("train 5" + ENTER)
    assert terminal.screen.saw("until height  17")
    terminal.type("quit" + ENTER)
    assert ended(thread)
    assert left == ["quit"]
    assert ("train", 5) in node.target.calls


@pytest.mark.parametrize("keys", [CTRL_D, CTRL_C, "pau" + CTRL_C + CTRL_C, "quit" + ENTER, "  quit " + ENTER])
def test_ways_to_leave(node: RunningNode, terminal: Terminal, keys: str) -> None:
    left: list[str] = []
    thread = terminal.run(lambda: run_repl(node.client, on_quit=lambda: left.append("quit")))
    terminal.type(keys)
    assert ended(thread)
    assert left == ["quit"]
    assert node.target.calls == []


def test_leave_asks_first(node: RunningNode, terminal: Terminal) -> None:
    thread = terminal.run(lambda: run_repl(node.client))
    terminal.type("leave" + ENTER + "pause" + ENTER + "leave" + ENTER)
    assert terminal.screen.saw("3 of 4 members remain, 3 needed: no fault tolerated")
    assert terminal.screen.saw("leave again to leave for good")
    terminal.type("leave" + ENTER)
    assert terminal.screen.saw("leaving: 3 of 4 members remain")
    terminal.type(CTRL_D)
    assert ended(thread)
    assert node.target.calls == ["pause", "leave"]


def test_ctrl_c_clears_the_line_and_stays(node: RunningNode, terminal: Terminal) -> None:
    thread = terminal.run(lambda: run_repl(node.client))
    terminal.type("pause" + CTRL_C + "train 2" + ENTER)
    assert terminal.screen.saw("until height  14")
    terminal.type(CTRL_D)
    assert ended(thread)
    assert node.target.calls == [("train", 2)]


def test_completion_and_history_that_outlives_the_prompt(node: RunningNode, terminal: Terminal) -> None:
    thread = terminal.run(lambda: run_repl(node.client))
    terminal.type("pau" + TAB + ENTER)
    assert terminal.screen.saw("state  paused")
    terminal.type(CTRL_D)
    assert ended(thread)
    assert "+pause" in node.home.history.read_text()
    thread = terminal.run(lambda: run_repl(node.client))
    terminal.type(UP + ENTER + CTRL_D)
    assert ended(thread)
    assert node.target.calls == ["pause", "pause"]


def test_log_lines_appear_above_the_prompt(node: RunningNode, terminal: Terminal) -> None:
    thread = terminal.run(lambda: run_repl(node.client))
    assert terminal.screen.saw("p2pnode>")
    before = len(terminal.screen)
    sys.stderr.write("14:03:22 peer connected\n")
    assert terminal.screen.saw("14:03:22 peer connected", after=before)
    line_at = terminal.screen.getvalue().index("14:03:22")
    assert "\x1b[J" in terminal.screen.getvalue()[before:line_at], "the prompt is taken away first"
    assert terminal.screen.saw("p2pnode>", after=line_at), "and drawn again below"
    terminal.type("pause" + ENTER + CTRL_D)
    assert ended(thread)
    assert node.target.calls == ["pause"]


def test_the_line_under_the_prompt_is_alive(
    node: RunningNode, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repl_module, "WATCH_SECONDS", 0.05)
    thread = terminal.run(lambda: run_repl(node.client))
    assert terminal.screen.saw("4/4 members")
    node.target.state |= {"verdict": "halted", "members_reachable": 2}
    assert terminal.screen.saw("2/4 members")
    terminal.type(CTRL_D)
    assert ended(thread)


def test_it_ends_when_the_node_ends(
    node: RunningNode, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(repl_module, "WATCH_SECONDS", 0.05)
    left: list[str] = []
    thread = terminal.run(lambda: run_repl(node.client, on_quit=lambda: left.append("quit")))
    assert terminal.screen.saw("p2pnode>")
    node.client.stop()
    assert ended(thread)
    assert left == [], "nobody quit; the node ended by itself"
    assert capsys.readouterr().err == "the node has ended\n"


def test_close_ends_it_from_another_thread_at_any_moment(node: RunningNode, terminal: Terminal) -> None:
    left: list[bool] = []
    for wait_for_the_prompt in (True, False):
        repl = Repl(node.client)
        thread = terminal.run(lambda repl=repl: left.append(repl.run()))  # type: ignore[misc]
        if wait_for_the_prompt:
            assert terminal.screen.saw("p2pnode>")
        repl.close()
        repl.close()
        assert ended(thread)
    assert left == [False, False]


def test_cancelling_the_task_in_a_node_ends_the_prompt(node: RunningNode, terminal: Terminal) -> None:
    left: list[str] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(run_repl_in_thread, node.client, on_quit=lambda: left.append("quit")))
            await trio.to_thread.run_sync(terminal.screen.saw, "p2pnode>")
            nursery.cancel_scope.cancel()

    assert ended(terminal.run(lambda: trio.run(main)))
    assert left == []


def test_quitting_inside_a_node_can_set_its_events(node: RunningNode, terminal: Terminal) -> None:
    async def main() -> None:
        stopping = trio.Event()
        await run_repl_in_thread(node.client, on_quit=stopping.set)
        assert stopping.is_set()

    thread = terminal.run(lambda: trio.run(main))
    terminal.type(CTRL_D)
    assert ended(thread)


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        ("stat", "unknown command: stat", "did you mean stats?"),
        ("exit", "unknown command: exit", "did you mean quit?"),
        ("xyzzy", "unknown command: xyzzy", "help lists the commands"),
        ("\x1b[2J", "unknown command: \\x1b[2J", "help lists the commands"),
        ("trace", "trace: wrong number of arguments", "usage: trace H"),
        ("peers 3", "peers: wrong number of arguments", "usage: peers"),
        ("trace x", "x: not a whole number above zero", "usage: trace H"),
        ("train 0", "0: not a whole number above zero", "usage: train [N]"),
        ("train -1", "-1: not a whole number above zero", "usage: train [N]"),
        ("train \u0663", "\u0663: not a whole number above zero", "usage: train [N]"),
        (f"train {'9' * 5000}", f"{'9' * 5000}: not a whole number above zero", "usage: train [N]"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(home: Home, line: str, error: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        execute(Client(home), line)
    assert (caught.value.message, caught.value.hint) == (error, hint)


def test_a_text_is_the_rest_of_the_line_and_moves_no_cursor(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    assert execute(node.client, "generate  It was  the best ") == "It was  the bestto be\nor not"
    assert node.target.calls[0] == ("generate", "It was  the best", {"max_tokens": 64})
    answer = {"number": 1, "text": "\x1b[2J\n", "tokens": 1, "ended": FACTS}
    monkeypatch.setattr(node.target, "generate", AsyncMock(return_value=answer))
    assert execute(node.client, "generate") == "\\x1b[2J\n"


def test_every_command_answers(node: RunningNode) -> None:
    arguments = {"trace": " 12"}
    for word in COMMANDS:
        if word == "test":
            with pytest.raises(UserError, match="one probe"):
                execute(node.client, word)
        else:
            assert execute(node.client, word + arguments.get(word, ""))
    assert execute(node.client, "   ") == ""
    help_lines = execute(node.client, "help").splitlines()
    assert [line.split()[0] for line in help_lines] == [*COMMANDS, "quit"]
