"""What is known of a network while it runs, and how its nodes are asked and told.

What it is: ``Run``, the one value that the parts of the harness share, and the few things that all of them do with a node. What it is not:
the story (``harness.py``), or anything that happens to a node (``strikes.py``, ``churn.py``).

For editors: a node's state is whatever it last said (``Run.latest``). The two cores that a network shares with its harness belong to the
network: a node is asked once per ``POLL_SECONDS``, and only a node about to be killed more often.
"""

import time
from collections.abc import Callable

import trio

from p2pnode.localnet import display
from p2pnode.localnet.options import LocalnetOptions
from p2pnode.localnet.processes import Fleet, Node
from p2pnode.localnet.questions import Questions
from p2pnode.localnet.readings import EvidenceRow, Status
from p2pnode.localnet.verdict import Cut, Kill, NodeOutcome
from p2pnode.localnet.weather import Partition

POLL_SECONDS = 0.2
POLL_SECONDS_PER_NODE = 0.05  # from five nodes on, the harness asks each of them less often
VICTIM_POLL_SECONDS = 0.01  # the shortest phases last a few times this
EVALUATE_SECONDS_MAX = 600.0


class RunFailed(Exception):
    """The run cannot reach its target; the text is the sentence for the verdict."""


class Run:
    """What is known while the network runs.

    ``target`` is the height that every node is to reach; under churn it is set once the last change is through. ``gone`` holds the last
    words of those who left for good.
    """

    def __init__(self, options: LocalnetOptions, fleet: Fleet, nodes: list[Node], shown: display.Display) -> None:
        self.options = options
        self.fleet = fleet
        self.nodes = nodes
        self.shown = shown
        self.questions = {node.index: Questions(node.home) for node in nodes}
        self.target = self.trained_until = options.rounds_max
        self.latest: dict[int, Status | None] = {node.index: None for node in nodes}
        self.last_words: dict[int, Status] = {}
        self.gone: dict[int, NodeOutcome] = {}
        self.evidence_seen: set[EvidenceRow] = set()
        self.kills: list[Kill] = []
        self.members = len(nodes)  # as the honest were last heard to say
        self.cuts: list[Cut] = []  # partitions that have begun
        self.cuts_open: list[Partition] = []
        self.troubles: list[str] = []
        self.wall_seconds: float | None = None
        self.validation_loss_first: float | None = None
        self.started_at = time.monotonic()

    def add(self, node: Node) -> None:
        """One more, which is not started yet."""
        self.nodes.append(node)
        self.questions[node.index] = Questions(node.home)
        self.latest[node.index] = None

    @property
    def present(self) -> list[Node]:
        """Everybody but those who left for good."""
        return [node for node in self.nodes if node.index not in self.gone]

    @property
    def honest(self) -> list[Node]:
        """Of those present."""
        return [node for node in self.present if node.attack is None]

    def height(self, node: Node) -> int:
        status = self.latest[node.index]
        return status.height if status else 0

    async def until(self, reached: Callable[[], bool], *, what: str, seconds_max: float) -> None:
        """Wait for ``reached``. Raises RunFailed when an honest node ended by itself, or nothing has moved for
        ``seconds_max``."""
        progress, deadline = self._progress(), time.monotonic() + seconds_max
        while not reached():
            if any(node.troubles for node in self.nodes if node.attack is None):
                raise RunFailed(f"gave up waiting for {what}: an honest node is gone")
            if self._progress() != progress or self.cuts_open:
                progress, deadline = self._progress(), time.monotonic() + seconds_max
            if time.monotonic() > deadline:
                raise RunFailed(f"gave up waiting for {what}: nothing moved for {seconds_max:.0f} seconds")
            await trio.sleep(POLL_SECONDS / 2)

    def _progress(self) -> list[tuple[int, int]]:
        """Changes while honest nodes learn or decide. New views alone are no progress."""
        return [(s.height, s.step) if (s := self.latest[node.index]) else (-1, -1) for node in self.honest]


async def watch(run: Run, node: Node) -> None:
    """Ask one node again and again for what it says of itself, as long as it belongs to the network."""
    while node.index not in run.gone:
        await read_status(run, node)
        await trio.sleep(max(POLL_SECONDS, POLL_SECONDS_PER_NODE * len(run.present)))


async def read_status(run: Run, node: Node) -> Status | None:
    status = await run.questions[node.index].status() if node.running else None
    run.latest[node.index] = status
    if status is not None:
        before = run.last_words.get(node.index)
        run.last_words[node.index] = status
        if node.attack is None and before is not None and status.members < before.members == run.members:
            run.members = status.members
            run.shown.note(f"{status.members} members remain: {display.tolerance(status.members)}")
        if node.attack is None and status.evidence > len(run.evidence_seen):
            await _note_evidence(run, node)
    return status


async def _note_evidence(run: Run, node: Node) -> None:
    rows = await run.questions[node.index].evidence()
    names = {other.node: other.name for other in run.nodes}
    for row in rows or ():
        if row not in run.evidence_seen:
            run.evidence_seen.add(row)
            run.shown.note(f"evidence: {names.get(row.node, row.node)} {row.kind} at height {row.height}")


async def read_outcome(run: Run, node: Node, *, loss: float | None, left: bool = False) -> NodeOutcome:
    """Everything that is kept of a node, asked now."""
    questions, honest = run.questions[node.index], node.attack is None
    status = await read_status(run, node)
    return NodeOutcome(
        name=node.name,
        node=node.node,
        attack=node.attack,
        status=status or run.last_words.get(node.index),
        rounds=(await questions.rounds(run.target)) if honest and status else (),
        evidence=(await questions.evidence()) if honest and status else (),
        validation_loss=loss,
        left=left,
    )


async def evaluate(run: Run, node: Node) -> float | None:
    with trio.move_on_after(EVALUATE_SECONDS_MAX):
        return await run.questions[node.index].evaluate()
    return None


async def order_training(run: Run, node: Node) -> None:
    """Tell a node how far to train, until it has heard."""
    questions = run.questions[node.index]
    while node.running:
        status = await questions.status()
        if status is not None:
            if status.height >= run.target or status.until_height == run.trained_until:
                return
            await questions.train(run.trained_until)
        await trio.sleep(VICTIM_POLL_SECONDS)


async def order_everybody(run: Run, height: int) -> None:
    """All nodes that run train until this height from now on."""
    run.trained_until = height
    async with trio.open_nursery() as nursery:
        for node in run.present:
            nursery.start_soon(order_training, run, node)
