"""The chain from peers that nobody trusts: pages of blocks, several at once, every certificate checked in order.

What it is: whom to ask for which page, and the checking. What it is not: the model (``catchup``), or a judge of peers beyond this: who
sent something wrong, or nothing in time, is doubted for a while, which means asked last.

Rules for editing: what a peer says of itself chooses whom to ask and nothing else; a pass ends when verified blocks no longer come,
never at a height that somebody claims. Blocks are durable before the chain counts them. Two pages are in flight from one peer and
``PAGES_AHEAD`` in all, fetched or waiting: that is all the memory it takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

import consensus
import transport
from consensus.verified import VerifiedSignatures
from p2pnode.checkpoint import Checkpoint, WrongHistory
from p2pnode.genesis import Genesis
from p2pnode.gossip import Block, Gossip
from p2pnode.logs import Logger
from p2pnode.people import changes
from p2pnode.store import Store
from p2pnode.timings import round_facts
from p2pnode.wire import BLOCKS_PER_REQUEST_MAX, PAGE_BYTES, Malformed
from transport.machine import in_thread

PAGES_AHEAD = 8  # fetched, or on their way, beyond the chain: 8 x 1.4 MiB, and enough for four peers with two each
PAGES_PER_PEER = 2  # one is on its way while another is answered; the first page alone shows whether the peer delivers
ASKERS_PER_PAGE_MAX = 3  # of the page that all wait for: two liars and one that is honest
OVERTAKE_SECONDS = 1.0  # until another peer is asked for that page too
PASS_SECONDS_MAX = 15.0  # without one verified block: a page may take ten, and half of another
DOUBT_SECONDS = 10.0  # short, because a peer that only lost its connection is doubted like a liar


@dataclass(slots=True, eq=False)
class Page:
    """Heights ``first`` to ``first + count - 1``: who was asked for them and when, and what came from whom."""

    first: int
    count: int
    asked: dict[bytes, float] = field(default_factory=dict)
    waiting: set[bytes] = field(default_factory=set)
    blocks: Sequence[Block] | None = None
    sender: bytes = b""


class Pages:
    """Which pages are wanted, who is asked for which, what is here. Sans-IO.

    ``ask_next`` and ``arrived`` and ``failed`` are about peers, ``ready`` and ``verified`` about the chain.
    """

    def __init__(self, height: int, target: int) -> None:
        self.height = height
        self.target = target
        self._pages: list[Page] = []

    @property
    def done(self) -> bool:
        return self.height >= self.target

    def ask_next(self, peer: bytes, claim: int, *, now: float) -> Page | None:
        """The page to ask ``peer`` for, if there is one that it says it has."""
        self._open()
        for page in self._pages:
            if page.blocks is None and not page.waiting and peer not in page.asked and page.first <= claim:
                return self._asked(page, peer, now)
        head = self._pages[0] if self._pages else None
        if head is None or peer in head.asked or head.first > claim or now < self._overtake_at(head):
            return None
        return self._asked(head, peer, now)

    def next_change(self) -> float | None:
        """When the page that all wait for may be asked of another peer."""
        head = self._pages[0] if self._pages else None
        at = None if head is None else self._overtake_at(head)
        return None if at == float("inf") else at

    def arrived(self, page: Page, peer: bytes, blocks: Sequence[Block]) -> None:
        """An answer to what was asked; one that comes after another's is late, which is no offence."""
        page.waiting.discard(peer)
        if page in self._pages and page.blocks is None:
            page.blocks, page.sender = blocks, peer

    def failed(self, page: Page, peer: bytes) -> None:
        page.waiting.discard(peer)

    def ready(self) -> Page | None:
        """The page that continues the chain, once it is here."""
        return self._pages[0] if self._pages and self._pages[0].blocks is not None else None

    def verified(self, height: int) -> None:
        """The chain has got so far with the first page; what is left of it is wanted from somebody else, or from the same."""
        page = self._pages.pop(0)
        self.height = height
        left = page.first + page.count - 1 - height
        if left > 0:
            rest = Page(height + 1, left)
            if height < page.first:  # nothing of it was right: whoever was asked for it is not asked again
                rest.asked = page.asked
            self._pages.insert(0, rest)

    def forget(self, peer: bytes) -> None:
        """What else it sent is not worth a check."""
        for page in self._pages:
            if page.sender == peer:
                page.blocks, page.sender = None, b""

    def exhausted(self, peers: Sequence[bytes]) -> bool:
        """Whether ``peers``, who say they have it, were all asked in vain for the page that continues the chain."""
        head = self._pages[0] if self._pages else None
        return head is None or (head.blocks is None and not head.waiting and all(peer in head.asked for peer in peers))

    def awaited(self) -> list[bytes]:
        """Who owes the page that continues the chain."""
        return sorted(self._pages[0].waiting) if self._pages else []

    def _open(self) -> None:
        last = self._pages[-1].first + self._pages[-1].count - 1 if self._pages else self.height
        while len(self._pages) < PAGES_AHEAD and last < self.target:
            count = min(BLOCKS_PER_REQUEST_MAX, self.target - last)
            self._pages.append(Page(last + 1, count))
            last += count

    def _asked(self, page: Page, peer: bytes, now: float) -> Page:
        page.asked[peer] = now
        page.waiting.add(peer)
        return page

    def _overtake_at(self, head: Page) -> float:
        """Never, where it is here or enough are asked."""
        if head.blocks is not None or len(head.waiting) >= ASKERS_PER_PAGE_MAX:
            return float("inf")
        return max((head.asked[peer] for peer in head.waiting), default=-OVERTAKE_SECONDS) + OVERTAKE_SECONDS


@dataclass(frozen=True, slots=True)
class _Verdict:
    """How far a page is right, what is wrong after that, and the hash of a block that is not the checkpoint's."""

    state: consensus.ChainState
    problem: str | None = None
    stray: bytes | None = None


class BlockSync:
    """Extends the verified chain of one home. ``chain`` is its tip; ``base`` the height below which it cannot go back."""

    def __init__(
        self, *, genesis: Genesis, store: Store, gossip: Gossip, checkpoint: Checkpoint | None, log: Logger
    ) -> None:
        self.chain = genesis.state()
        self.base = 0
        self.checkpoint = checkpoint
        self._genesis = genesis
        self._store = store
        self._gossip = gossip
        self._log = log
        self._doubted_until: dict[bytes, float] = {}
        self._strayed: set[bytes] = set()  # peers with another history than the checkpoint's
        self._verify_once = VerifiedSignatures(
            transport.verify
        )  # most stand in two places: beside their block and in the next
        self._changed = trio.Event()

    @property
    def confirmed(self) -> bool:
        """Whether the chain is known to be the checkpoint's; without a checkpoint, the first that verifies is taken."""
        return self.checkpoint is None or self.chain.height >= self.checkpoint.height

    async def extend(self, target: int) -> None:
        """As far towards ``target`` as peers can show it now.

        Raises:
            WrongHistory: nobody is left who could have the checkpoint's history.
        """
        run = await self._run(target)
        while run.stray is not None:
            await self._give_up_branch(*run.stray)
            run = await self._run(target)

    async def _run(self, target: int) -> "_Pass":
        """One pass: until the target, until verified blocks no longer come, or until a branch has to be given up."""
        pages, run = Pages(self.chain.height, target), _Pass(progress_at=trio.current_time())
        async with trio.open_nursery() as nursery:
            while not pages.done and run.stray is None:
                able = [peer for peer in self.sources(pages.height + 1) if peer not in run.failed]
                self._ask_all(run, pages, able, nursery)
                ready = pages.ready()
                if ready is not None:
                    await self._check(run, pages, ready)
                    continue
                over_at = run.progress_at + PASS_SECONDS_MAX
                if pages.exhausted(able):
                    break
                if trio.current_time() >= over_at:
                    for peer in pages.awaited():
                        self._fail(run, peer, "sent no page in time")
                    break
                with trio.move_on_at(min(over_at, pages.next_change() or over_at)):
                    await self._changed.wait()
            nursery.cancel_scope.cancel()
        return run

    def _ask_all(self, run: "_Pass", pages: Pages, able: Sequence[bytes], nursery: trio.Nursery) -> None:
        now = trio.current_time()
        self._changed = trio.Event()
        for peer in able:
            most = PAGES_PER_PEER if peer in run.proven else 1
            while run.in_flight.get(peer, 0) < most:
                page = pages.ask_next(peer, self._claim(peer), now=now)
                if page is None:
                    break
                run.in_flight[peer] = run.in_flight.get(peer, 0) + 1
                nursery.start_soon(self._ask, run, pages, page, peer)

    async def _ask(self, run: "_Pass", pages: Pages, page: Page, peer: bytes) -> None:
        try:
            blocks, size = await self._gossip.fetch_blocks(peer, page.first, page.count)
            if not blocks:
                raise Malformed("no block where it says that it decided one")
            if len(blocks) > page.count:
                raise Malformed("more blocks than it was asked for")
            if len(blocks) < page.count and size < PAGE_BYTES and self._claim(peer) >= page.first + page.count - 1:
                self._fail(run, peer, "a truncated page")  # what it holds is as good as any
            pages.arrived(page, peer, blocks)
        except (transport.RequestFailed, Malformed, consensus.Malformed) as problem:
            pages.failed(page, peer)
            self._fail(run, peer, str(problem))
        finally:
            run.in_flight[peer] -= 1
            self._changed.set()

    async def _check(self, run: "_Pass", pages: Pages, page: Page) -> None:
        """Block by block and certificate by certificate, off the loop, while further pages arrive."""
        assert page.blocks is not None
        verdict = await in_thread(self._verify, self.chain, page.blocks)
        if verdict.state.height > self.chain.height:
            self.chain = verdict.state
            run.proven.add(page.sender)
            run.progress_at = trio.current_time()
        pages.verified(self.chain.height)
        if verdict.stray is not None:
            run.stray = page.sender, verdict.stray
        elif verdict.problem is not None:
            self._fail(run, page.sender, verdict.problem)
            pages.forget(page.sender)

    def _verify(self, state: consensus.ChainState, blocks: Sequence[Block]) -> _Verdict:
        """Take in what is right, durably, up to the first thing that is not."""
        before, problem, stray = state.height, None, None
        for block, certificate in blocks:
            problem = decision_problem(block, certificate, state, verify=self._verify_once)
            if problem is not None:
                problem = f"block {state.height + 1}: {problem}"
                break
            if self.checkpoint is not None and self.checkpoint.contradicts(block.height, block.hash):
                stray = block.hash
                break
            after = state.after(block, certificate)
            facts = round_facts(block, certificate) | changes(state.membership, after.membership, block)
            self._store.put_block(block, certificate, facts, durable=False)
            state = after
        if state.height > before:
            self._store.make_durable()
        return _Verdict(state, problem, stray)

    async def _give_up_branch(self, sender: bytes, found: bytes) -> None:
        """Somebody's blocks lead to another block than the checkpoint's: back to where no doubt is, without whoever sent them."""
        checkpoint = self.checkpoint
        assert checkpoint is not None
        self._strayed.add(sender)
        self._log.error(
            "another history refused",
            peer=transport.short_id(sender),
            height=checkpoint.height,
            block=found.hex(),
            checkpoint=checkpoint.block_hash.hex(),
        )
        if self.base:
            raise WrongHistory(checkpoint, found, where="of this home's chain", hint=HINT_HOME)
        self.chain = self._genesis.state()
        await in_thread(self._store.drop_above, 0)
        if not self.sources(checkpoint.height):
            raise WrongHistory(checkpoint, found, where="of the peers that can be reached", hint=_HINT_PEERS)

    # --- whom to ask ---------------------------------------------------------------------------------------------------------------

    def sources(self, height: int) -> list[bytes]:
        """Who says that it has a height: members before strangers, then whoever failed longest ago or never, then the farthest."""
        members = self.chain.membership.current
        able = [peer for peer in self._gossip.peers_at(height) if peer not in self._strayed]
        return sorted(able, key=lambda peer: (peer not in members, self._doubted_until.get(peer, 0.0)))

    def claimed(self) -> int:
        """The highest height that a connected peer says it decided, unless it just failed to show it."""
        return max(self._claims().values(), default=0)

    def likely_tip(self) -> int:
        """Where the chain probably ends, for people: what so many members claim that one of them is honest, else the median claim."""
        claims, members = self._claims(), self.chain.membership.current
        of_members = sorted((claim for peer, claim in claims.items() if peer in members), reverse=True)
        if len(of_members) >= members.blocking():
            tip = of_members[members.blocking() - 1]
        else:
            tip = sorted(claims.values())[(len(claims) - 1) // 2] if claims else 0
        return max(tip, self.chain.height)

    def progress(self) -> str:
        """One line for ``status``."""
        tip = self.likely_tip()
        if self.checkpoint is not None and not self.confirmed and tip < self.checkpoint.height:
            return f"catching up: block {self.chain.height} of {self.checkpoint.height} (the checkpoint)"
        peers = sum(claim >= tip for claim in self._claims().values())
        return (
            f"catching up: block {self.chain.height} of {tip} (claimed by {peers} {'peer' if peers == 1 else 'peers'})"
        )

    def doubt(self, peer: bytes, reason: str) -> None:
        here = self._gossip.statuses
        self._doubted_until = {key: until for key, until in self._doubted_until.items() if key in here}
        self._doubted_until[peer] = trio.current_time() + DOUBT_SECONDS
        self._log.warning("catch-up source refused", peer=transport.short_id(peer), reason=reason)

    def _fail(self, run: "_Pass", peer: bytes, reason: str) -> None:
        if peer not in run.failed:
            run.failed.add(peer)
            self.doubt(peer, reason)

    def _claim(self, peer: bytes) -> int:
        status = self._gossip.statuses.get(peer)
        return 0 if status is None else status.height

    def _claims(self) -> dict[bytes, int]:
        now = trio.current_time()
        statuses = self._gossip.statuses.items()
        return {
            peer: status.height
            for peer, status in statuses
            if self._doubted_until.get(peer, 0.0) <= now and peer not in self._strayed
        }


@dataclass(slots=True)
class _Pass:
    """What is known of peers during one pass."""

    progress_at: float
    failed: set[bytes] = field(default_factory=set)
    proven: set[bytes] = field(default_factory=set)
    in_flight: dict[bytes, int] = field(default_factory=dict)
    stray: tuple[bytes, bytes] | None = None


def decision_problem(
    block: consensus.Block,
    certificate: consensus.CommitCertificate,
    state: consensus.ChainState,
    *,
    verify: consensus.Verify = transport.verify,
) -> str | None:
    """Why this block and certificate do not extend the chain at ``state``, or ``None``. Every signature is verified."""
    if certificate.height != block.height or certificate.block_hash != block.hash:
        return "its certificate is for another block"
    problem = consensus.check_block(block, state, verify)
    if problem is not None:
        return problem
    committee = state.membership.current
    return consensus.check_certificate(certificate, committee, chain_id=state.chain_id, verify=verify)


_HINT_PEERS = (
    "either these peers follow another history, or the checkpoint is mistyped: compare it with p2pnode status of a node "
    "that you trust, and --bootstrap to that one"
)
HINT_HOME = (
    "if the checkpoint is right, this home followed another history: move chain.sqlite* away and start again; "
    "it keeps its key and its votes"
)
