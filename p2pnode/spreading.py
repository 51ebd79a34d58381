"""Payloads that their authors spread: which are expected, what of them is passed on to whom, and when the rest is fetched.

What it is: the node's half of ``transport.spread``. A member of a large committee sends each leaf of its contribution to one member, who
passes it on at once to all the others that hear the author. What it is not: the announcement (``gossip``), the fetch of what nobody passed on
(``transport.fetch``), or a judge of payloads (``rounds``).

    expected     a leaf is looked at if a member announced its payload for the open height and another member sent it
    passed on    once, if the author itself asks for it and the committee's order names us for that leaf
    distrusted   whoever sends what is no leaf of the payload: for the rest of that payload, and as a holder of blobs for a while

Rules for editing: what is held is what the open height's fetches would hold. Nothing is kept for a height that is over.
"""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet

import trio

import consensus
import transport
from p2pnode.overlay import is_mesh
from p2pnode.relay import Relay
from p2pnode.wire import FrameKind
from transport import content, limits, spread
from transport.content import Buffer
from transport.framing import frame_pieces


class Spreading:
    """One node's part in it."""

    def __init__(
        self, me: bytes, *, swarm: transport.Swarm, committee: Callable[[], consensus.Committee], relay: Relay
    ) -> None:
        self.unasked = self.lies = self.passed_on = 0  # frames dropped unread, frames that lied, frames sent for others
        self._me = me
        self._swarm = swarm
        self._committee = committee
        self._relay = relay
        self._open: dict[bytes, spread.Spread] = {}
        self._began: dict[bytes, float] = {}
        self._heard = 0.0  # when a leaf came that was lacking
        self._height = 0  # the open one

    def opened(self, height: int) -> None:
        """This height is open: what was announced for earlier ones is not needed any more."""
        if height > self._height:
            self._height = height
            self._open.clear()
            self._began.clear()

    def is_worth_it(self, author: bytes, length: int) -> bool:
        """Whether a payload of this author is spread, and we have a part in that; every member answers alike.

        Not where members are linked in part: there a relay is a neighbour of few, and a payload goes from link to link.
        """
        members = self._members()
        is_whole = author in members and self._me in members and is_mesh(members)
        return is_whole and spread.is_worth_it(len(members), length)

    def _members(self) -> Sequence[bytes]:
        return self._committee().members

    def _live(self) -> AbstractSet[bytes]:
        return self._swarm.live()

    # --- the author ----------------------------------------------------------------------------------------------------------------

    def offer(self, contribution: consensus.Contribution, payload: bytes, hashes: Sequence[bytes]) -> None:
        """Send each leaf of ours to the member that passes it on. To be said once the announcement is."""
        leaves, live = content.split(payload), self._live()
        if self._me not in self._members() or len(hashes) != len(leaves):
            return  # out of the committee, or damaged on the disk, since
        tree, others = content.levels(hashes), spread.ring(self._members(), self._me)
        relays = spread.relays(others, len(leaves), linked=live.__contains__)
        digest, height = contribution.payload_digest, contribution.height

        def frames(relay: bytes) -> Iterator[Sequence[Buffer]]:
            for index, leaf in enumerate(leaves):
                if self._height > height:
                    return  # decided: nobody expects it
                if relays[index] == relay:
                    path = content.inclusion_path(tree, index)
                    piece = spread.Piece(digest, index, path, leaf, pass_on=True)
                    yield frame_pieces(FrameKind.SPREAD, *piece.encode())

        for relay in set(relays) - {None}:
            assert relay is not None
            self._swarm.feed(relay, frames(relay))

    # --- the others ----------------------------------------------------------------------------------------------------------------

    def expect(self, contribution: consensus.Contribution) -> None:
        """A member's announcement for the open height: its leaves may follow at once, if we are to get them from relays."""
        self.opened(contribution.height)
        author, digest = contribution.author, contribution.payload_digest
        if author not in self._live() or not self.is_worth_it(author, contribution.payload_bytes):
            return
        if digest not in self._open:
            self._open[digest] = spread.Spread(digest, contribution.payload_bytes)
            self._began[digest] = trio.current_time()
        self._open[digest].authors.add(author)

    def find(self, digest: bytes) -> spread.Spread | None:
        """What has come so far of a payload that is spread."""
        return self._open.get(digest)

    def take(self, peer: bytes, body: bytes) -> None:
        """A frame with a leaf."""
        head = spread.head(body)
        wanted = None if head is None else self._open.get(head[0])
        if head is None or wanted is None or wanted.distrusts(peer) or peer not in self._members():
            self.unasked += 1
            return
        _, index, is_asked = head
        passes = is_asked and not wanted.was_passed_on(index) and self._is_relay(peer, wanted, index)
        if wanted.holds(index) and not passes:
            return
        if not wanted.holds(index):
            self._heard = trio.current_time()
        piece = wanted.take(peer, body)
        if piece is None:
            self.lies += 1
            self._swarm.lied(transport.PublicKey(peer))
        elif passes:
            wanted.passed_on(index)
            self._pass_on(peer, piece)

    async def settle(self, wanted: spread.Spread, *, hurry: bool) -> None:
        """Until all of it is here, or it is time to fetch the rest: no leaf of any payload comes any more, or they come too slowly.

        Where many are spread at once each comes slowly, and to fetch it then would only take the others' room. In a ``hurry``, because a
        block lists it, that is no matter.
        """
        patience = self._patience_seconds()
        began = self._began.get(wanted.digest, 0.0)
        called = trio.current_time()
        while not wanted.whole.is_set():
            expected_bytes = sum(each.length for each in self._open.values())
            slowest = called if hurry else began + expected_bytes / limits.SPREAD_BYTES_PER_SECOND_MIN
            until = patience + min(max(self._heard, began), slowest)
            if trio.current_time() >= until:
                return
            with trio.move_on_at(until):
                await wanted.whole.wait()

    def _patience_seconds(self) -> float:
        """How long nothing may come before the rest is fetched: two round trips to members, the slowest third of them left out.

        They could say anything; of the others at least one is honest and as slow.
        """
        members = self._members()
        trips = sorted(p.rtt_seconds for p in self._swarm.peers() if p.key in members and p.rtt_seconds is not None)
        typical = trips[len(trips) * 2 // 3] if trips else 0.0
        return min(max(2 * typical, limits.PATIENCE_SECONDS_MIN), limits.PATIENCE_SECONDS_MAX)

    def _is_relay(self, peer: bytes, wanted: spread.Spread, index: int) -> bool:
        """Whether this peer may ask us to pass this leaf on."""
        count = content.leaf_count(wanted.length)
        if peer not in wanted.authors or index >= count:
            return False
        return self._me in spread.named(spread.ring(self._members(), peer), index, count)

    def _pass_on(self, author: bytes, piece: spread.Piece) -> None:
        """To every member that we hear and that expects it: the author's announcement is on its way to it. Who has no room is left out."""
        live = self._live()
        others = set(self._members()) & live - {author, self._me} - set(self._relay.across(author, live))
        frame = frame_pieces(FrameKind.SPREAD, *piece.passed().encode())
        self.passed_on += self._swarm.offer_bulk(frame, to=sorted(others))
