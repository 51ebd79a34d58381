"""What a person sees of a run: a live table on a terminal, a line per round elsewhere, a table at the end.

What it is: presentation of readings. What it is not: the verdict, or a judgement of its own.

For editors: stderr carries everything while the run lasts; stdout carries the result alone, so ``--json`` can be piped.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from p2pnode.localnet.readings import Json, NodeId, Status
from p2pnode.localnet.verdict import NodeOutcome, Outcome

ROOT_CHARACTERS = 12
EVENTS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node at a moment: ``status`` is None while it does not answer."""

    name: str
    node: NodeId
    attack: str | None
    status: Status | None


class Display(Protocol):
    """Both displays: ``update`` at every reading, ``note`` for what happens in between."""

    def __enter__(self) -> "Display": ...
    def __exit__(self, *_: object) -> None: ...
    def update(self, views: Sequence[NodeView], *, seconds: float) -> None: ...
    def note(self, text: str) -> None: ...


def open_display(rounds: int | None) -> Display:
    """The live table if a person watches, lines otherwise. ``rounds`` is None where nobody knows yet how many there will be."""
    console = Console(stderr=True, highlight=False)
    return LiveDisplay(console, rounds) if console.is_terminal else LineDisplay(console, rounds)


class LineDisplay:
    """A line per round, for logs and pipes."""

    def __init__(self, console: Console, rounds: int | None) -> None:
        self._console = console
        self._rounds = rounds
        self._losses: dict[int, dict[NodeId, float]] = {}
        self._heads: dict[int, str] = {}
        self._printed = 0

    def __enter__(self) -> "LineDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def note(self, text: str) -> None:
        self._say(text)

    def update(self, views: Sequence[NodeView], *, seconds: float) -> None:
        """Remember what the honest nodes say; print the rounds that all of them have seen."""
        statuses = [view.status for view in views if view.status is not None and view.attack is None]
        for status in statuses:
            if status.loss is not None and status.loss_height is not None:
                self._losses.setdefault(status.loss_height, {})[status.node] = status.loss
            self._heads.setdefault(
                status.height, f"view {status.view}  root {status.model_root[:ROOT_CHARACTERS]}  {seconds:6.1f} s"
            )
        total = f"/{self._rounds}" if self._rounds else ""
        seen = min((status.height for status in statuses), default=0)
        for height in range(self._printed + 1, self._at_most(seen) + 1):
            losses = " ".join(f"{loss:.3f}" for _, loss in sorted(self._losses.pop(height, {}).items()))
            head = self._heads.pop(height, "")
            self._say(f"round {height:>3}{total}  {head}  loss {losses or '-'}".rstrip())
        self._printed = max(self._printed, self._at_most(seen))

    def _at_most(self, height: int) -> int:
        return height if self._rounds is None else min(height, self._rounds)

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class LiveDisplay:
    """A progress bar and one row per node, redrawn at every reading."""

    def __init__(self, console: Console, rounds: int | None) -> None:
        self._rounds = rounds
        self._views: Sequence[NodeView] = ()
        self._seconds = 0.0
        self._events: list[str] = []
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "LiveDisplay":
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def note(self, text: str) -> None:
        """Show what happened under the table, with the few events before it."""
        self._events = [*self._events, text][-EVENTS_SHOWN:]
        self._draw()

    def update(self, views: Sequence[NodeView], *, seconds: float) -> None:
        """Show the nodes as they are now."""
        self._views, self._seconds = views, seconds
        self._draw()

    def _draw(self) -> None:
        heights = [view.status.height for view in self._views if view.status is not None and view.attack is None]
        highest = max(heights, default=0)
        done, total = (highest, "") if self._rounds is None else (min(highest, self._rounds), f"/{self._rounds}")
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(f"round {done}{total}", style="bold"),
            ProgressBar(total=self._rounds, completed=done, width=40),
            Text(f"{self._seconds:.0f} s"),
        )
        events = [Text(event, style="yellow") for event in self._events]
        self._live.update(Group(head, _node_table(self._views), *events), refresh=True)


def _node_table(views: Sequence[NodeView]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("node", "height", "view", "phase", "loss", "model root", ""):
        table.add_column(column)
    for view in views:
        remark = f"byzantine: {view.attack}" if view.attack else ""
        status = view.status
        if status is None:
            table.add_row(view.name, "-", "-", "down", "-", "-", remark, style="red")
            continue
        learning = status.phase == "learn" and status.steps
        phase = f"learn {status.step}/{status.steps}" if learning else status.phase
        if status.evidence and not remark:
            remark = f"holds {status.evidence} evidence"
        table.add_row(
            *(view.name, str(status.height), str(status.view), phase),
            *(_number(status.loss), status.model_root[:ROOT_CHARACTERS], remark),
        )
    return table


def show_result(outcome: Outcome, summary: Mapping[str, Json]) -> None:
    """The final table and the verdict line, on stdout."""
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 100)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("node", "height", "model root", "loss", "held-out loss", "remark"):
        table.add_column(column)
    for node in outcome.nodes:
        table.add_row(*_result_row(node, outcome, summary))
    console.print(table)
    console.print(Text(verdict_line(summary)), soft_wrap=True)


def verdict_line(summary: Mapping[str, Json]) -> str:
    """One line that says it all."""
    if summary["verdict"] != "ok":
        return f"verdict: failed: {'; '.join(summary['reasons'])}"
    changes = f" with {len(summary['membership'])} changes of the committee" if summary["membership"] else ""
    return (
        f"verdict: ok: {summary['rounds_committed']} rounds in {summary['wall_seconds']:.1f} s{changes}, one model on every honest "
        f"node at every height, held-out loss {summary['validation_loss_first']:.3f} -> "
        f"{summary['validation_loss_last']:.3f}, {summary['tokens_per_second']:.0f} tokens/s"
    )


def _result_row(node: NodeOutcome, outcome: Outcome, summary: Mapping[str, Json]) -> tuple[str, ...]:
    remarks = [f"byzantine: {node.attack}"] if node.attack else []
    accused = [row for row in summary["evidence"] if row["node"] == node.node]
    if accused:
        remarks.append(f"in evidence ({accused[0]['kind']} at height {accused[0]['height']})")
    if node.node in summary["evicted"]:
        remarks.append("evicted")
    if node.left and node.status is not None:
        remarks.append("left")
    remarks += [f"killed at height {k.height} ({k.phase})" for k in outcome.kills if k.node == node.node]
    if node.status is None:
        return (node.name, "-", "-", "-", "-", ", ".join(remarks))
    return (
        *(node.name, str(node.status.height), node.status.model_root[:ROOT_CHARACTERS]),
        *(_number(node.status.loss), _number(node.validation_loss), ", ".join(remarks)),
    )


def tolerance(members: int) -> str:
    """How many of so many members may fail."""
    faults = (members - 1) // 3
    return "no fault tolerated" if faults == 0 else f"{faults} fault{'s' if faults > 1 else ''} tolerated"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
