"""The prompt of a node: the nouns of the command line, typed short, with history and completion.

What it is: a client of the control socket and nothing more, inside ``start`` as well as in ``attach``; it sees what any other client
sees. What it is not: a way around the socket.

For editors: it must work on a thread that is not the main one (inside ``start`` the main thread belongs to trio), and ``close`` must
end it at once from any thread and leave the terminal as it was. The terminal is in raw mode while the prompt waits, so Ctrl-C arrives
here as a key and not as a signal.
"""

import difflib
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.shortcuts import CompleteStyle

from p2pnode import render
from p2pnode.client import Client
from p2pnode.errors import ExitCode, NoRunningNode, UserError, render_error

PROMPT = "p2pnode> "
WATCH_SECONDS = 1.0  # how old the line under the prompt may be, and how late the end of the node is noticed
CLOSE_SECONDS_MAX = 1.0  # half of what Ctrl-C may take in all
GENERATED_TOKENS = 64  # some lines; p2pnode generate has all the choices
LAST = 20  # rounds and log lines: what fits a screen


def run_repl(client: Client, *, on_quit: Callable[[], object] | None = None) -> None:
    """Run the prompt until the user leaves or the node ends; ``on_quit`` is called only if the user left."""
    if not Repl(client).run():
        _say("the node has ended")
    elif on_quit is not None:
        on_quit()
    else:
        _say("the node runs on; p2pnode stop ends it")


async def run_repl_in_thread(client: Client, *, on_quit: Callable[[], object]) -> None:
    """The prompt inside ``start``: a thread of its own, ended and the terminal restored when this task is cancelled.

    ``on_quit`` is called in this task, so that it may set a ``trio.Event``.
    """
    import trio

    repl = Repl(client)
    try:
        left = await trio.to_thread.run_sync(repl.run, abandon_on_cancel=True)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(repl.close)
    if left:
        on_quit()


def execute(client: Client, line: str) -> str:
    """Carry out one line and return what to print. Raises UserError; ``quit`` is not for here."""
    word, *arguments = line.split() or [""]
    if not word:
        return ""
    command = COMMANDS.get(word)
    if command is None:
        near = difflib.get_close_matches(word, [*COMMANDS, *QUIT], n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "help lists the commands"
        raise UserError(f"unknown command: {render.printable(word)}", hint, exit_code=ExitCode.USAGE)
    if command.takes_text:
        return command.run(client, line.strip()[len(word) :].strip())
    if not command.arguments_min <= len(arguments) <= command.arguments_max:
        raise UserError(f"{word}: wrong number of arguments", f"usage: {command.usage}", exit_code=ExitCode.USAGE)
    return command.run(client, [_whole_number(argument, command.usage) for argument in arguments])


class Repl:
    """One prompt on this process's terminal."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._application: Application[str] | None = None
        self._brief = ""
        self._node_ended = False
        self._asked = False  # whether the last line was `leave`

    def run(self) -> bool:
        """Read and carry out lines; True if the user left, False if the node ended or ``close`` was called."""
        try:
            if sys.stdin.isatty():
                self._run_prompt()
            else:
                self._run_lines()
        finally:
            self._ended.set()
        return not (self._node_ended or self._closing.is_set())

    def close(self) -> None:
        """End the prompt from any thread and wait until the terminal is itself again."""
        self._end()
        if self._application is not None:
            self._ended.wait(CLOSE_SECONDS_MAX)

    def _run_prompt(self) -> None:
        session: PromptSession[str] = PromptSession(
            PROMPT,
            history=self._history(),
            completer=WordCompleter([*COMMANDS, *QUIT], pattern=None),
            complete_while_typing=False,
            # The other styles complete in the background, and Enter right after Tab would take the word uncompleted.
            complete_style=CompleteStyle.READLINE_LIKE,
            key_bindings=_key_bindings(),
            bottom_toolbar=lambda: self._brief,
            refresh_interval=WATCH_SECONDS,
        )
        self._application = session.app
        watcher = threading.Thread(target=self._watch, name="repl-watch", daemon=True)
        with patch_stdout(raw=True):
            watcher.start()
            while not self._closing.is_set():
                try:
                    line = session.prompt(pre_run=self._end_if_closing)
                except EOFError:
                    break
                if not self._take(line):
                    break

    def _run_lines(self) -> None:
        """Without a terminal (a pipe, a script): the same commands, no prompt."""
        for line in sys.stdin:
            if self._closing.is_set() or not self._take(line):
                break

    def _take(self, line: str) -> bool:
        """Carry out one line; False to leave."""
        if line.strip() in QUIT:
            return False
        asked, self._asked = self._asked, line.split() == ["leave"]
        try:
            text = _leave(self._client) if asked and self._asked else execute(self._client, line)
        except NoRunningNode:
            self._node_ended = True
            return False
        except UserError as error:
            text = render_error(error)
        except KeyboardInterrupt:
            text = "interrupted"  # only in `attach`: the node goes on with what it was asked
        if text:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        return True

    def _watch(self) -> None:
        """Keep the line under the prompt young, and notice the end of the node."""
        while not self._ended.is_set():
            try:
                self._brief = render.brief(self._client.status())
            except NoRunningNode:
                self._node_ended = not self._closing.is_set()
                self._end()
                return
            except UserError as error:
                self._brief = render.printable(error.message)
            self._ended.wait(WATCH_SECONDS)

    def _end(self) -> None:
        self._closing.set()
        # While a command runs or before the prompt is up there is no loop; `_end_if_closing` and the while cover these.
        if self._application is not None and (loop := self._application.loop) is not None:
            try:
                loop.call_soon_threadsafe(self._end_if_closing)
            except RuntimeError:
                pass  # the loop closed between the two lines

    def _end_if_closing(self) -> None:
        application = self._application
        if self._closing.is_set() and application is not None and application.is_running and not application.is_done:
            application.exit(exception=EOFError)

    def _history(self) -> History:
        path = self._client.home.history
        try:
            path.touch(mode=0o600, exist_ok=True)
        except OSError:
            return InMemoryHistory()  # a home that cannot be written to can still be watched
        return FileHistory(path)


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the prompt; its arguments are whole numbers, or one is the rest of the line."""

    usage: str
    help: str
    run: Callable[[Client, Any], str]
    arguments_min: int = 0
    arguments_max: int = 0
    takes_text: bool = False


QUIT = ("quit",)

COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "stats": Command("stats", "the verdict, and what the node is doing", lambda c, _: render.status(c.status())),
        "peers": Command("peers", "the nodes it is connected to", lambda c, _: render.peers(c.peers())),
        "train": Command(
            "train [N]",
            "contribute to rounds, without end or for N heights",
            lambda c, a: render.facts(c.train(a[0] if a else None)),
            arguments_max=1,
        ),
        "pause": Command("pause", "stop contributing; voting goes on", lambda c, _: render.facts(c.pause())),
        "rounds": Command("rounds", "the newest rounds", lambda c, _: render.rounds(c.rounds(LAST))),
        "trace": Command(
            "trace H",
            "the path of one gradient through the round at height H",
            lambda c, a: render.trace(c.trace(a[0])),
            arguments_min=1,
            arguments_max=1,
        ),
        "test": Command(
            "test", "send a probe of the model's size through a round", lambda c, _: render.facts(c.test())
        ),
        "generate": Command(
            "generate TEXT",
            f"what the model writes after it, {GENERATED_TOKENS} tokens",
            lambda c, text: render.printable_lines(
                text + "".join(piece["text"] for piece in c.generate(text, {"max_tokens": GENERATED_TOKENS}))
            ),
            takes_text=True,
        ),
        "leave": Command(
            "leave",
            "be a member no longer, for good; asks first",
            lambda c, _: f"{c.parting()['reason']}\nleave again to leave for good",
        ),
        "log": Command("log", "the newest log lines", lambda c, _: render.log(c.log(LAST))),
        "help": Command("help", "this list", lambda *_: _help()),
    }
)


def _leave(client: Client) -> str:
    """What the second of two lines ``leave`` does."""
    return f"leaving: {client.leave()['reason']}"


def _help() -> str:
    lines = [(command.usage, command.help) for command in COMMANDS.values()]
    lines.append(("quit", "leave; inside `p2pnode start` the node ends too (also Ctrl-D, or Ctrl-C on an empty line)"))
    width = max(len(usage) for usage, _ in lines)
    return "\n".join(f"{usage.ljust(width)}  {text}" for usage, text in lines)


def _whole_number(text: str, usage: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) == 0:
        raise UserError(
            f"{render.printable(text)}: not a whole number above zero", f"usage: {usage}", exit_code=ExitCode.USAGE
        )
    return int(text)


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("c-c")
    @bindings.add("<sigint>")
    def _(event: KeyPressEvent) -> None:
        """Ctrl-C clears the line; on an empty line it leaves, so that twice always does."""
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=EOFError)

    return bindings


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
