"""To whom a signed message is passed on, so that it reaches members whom its author cannot reach.

What it is: one answer per message, from what members say of their links (``links``). What it is not: a judge of messages, or a store.

    the ring      A member that shows one vote to some and another to the rest is caught only if the two versions meet. So each vote that
                  a member hears first goes on to the next member in committee order: if two honest members heard different versions,
                  then somewhere along the ring two honest neighbours did, and the second one holds the proof.
    the gaps      It also goes on to every member that we hear and that is not linked to the author: where all are linked to all that is
                  nobody, and costs nothing; along a line each passes everything on.
    the author    What comes in somebody's name by another way than from him is shown to him: whoever finds a vote of his own that he
                  did not cast knows that his key is used elsewhere.

The author's repetitions cross the gaps in the same way, at most one a second of each (the transport takes what comes sooner for an echo);
nothing of heights that are over does. What an author may have passed on is bounded, so that one who signs without end floods nobody.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import trio

import consensus
from p2pnode.links import Links

RELAYED_PER_SECOND = (
    50.0  # of one author, by one member: two votes in each of ten views, their certificates and repetitions, twice over
)
RELAYED_BURST = 200.0  # what an author that was held up for four seconds says at once


class Targets(NamedTuple):
    """``at_once``: who may hear it in no other way. ``along``: who is to compare or to know; there it may come a moment later."""

    at_once: Sequence[bytes]
    along: Sequence[bytes]


NOBODY = Targets((), ())


class Relay:
    """One member's part in it. ``committee`` and ``height`` (the decided one) tell how things stand now."""

    def __init__(
        self, me: bytes, *, links: Links, committee: Callable[[], consensus.Committee], height: Callable[[], int]
    ) -> None:
        self.passed_on = 0  # sends, for the figures; those across gaps among them
        self.passed_across = 0
        self._me = me
        self._links = links
        self._committee = committee
        self._height = height
        self._allowance: dict[bytes, tuple[float, float]] = {}

    def targets(
        self, author: bytes, *, came_from: bytes, height: int, is_first: bool, live: Collection[bytes]
    ) -> Targets:
        """Members to pass a message on to; ``live`` are the peers that we hear. Nobody, where we or the author are no member."""
        members = self._committee().members
        if self._me not in members or author not in members or author == self._me:
            return NOBODY
        if not is_first and height <= self._height():
            return NOBODY
        chosen = across = set(self.across(author, live)) - {came_from}
        if is_first:
            chosen = across | {author}
            if len(members) >= 3:
                chosen.add(members[(members.index(consensus.PublicKey(self._me)) + 1) % len(members)])
        chosen = chosen & set(live) - {came_from, self._me}
        if not chosen or not self._take(author, members):
            return NOBODY
        self.passed_on += len(chosen)
        self.passed_across += len(across)
        return Targets(at_once=sorted(chosen & across), along=sorted(chosen - across))

    def across(self, author: bytes, live: Collection[bytes]) -> list[bytes]:
        """Members that we hear and that do not hear this author."""
        others = self._committee().members
        return [m for m in others if m in live and m not in (author, self._me) and not self._links.linked(m, author)]

    def _take(self, author: bytes, members: Collection[bytes]) -> bool:
        """A token of the author's bucket."""
        now = trio.current_time()
        tokens, at = self._allowance.get(author, (RELAYED_BURST, now))
        tokens = min(RELAYED_BURST, tokens + (now - at) * RELAYED_PER_SECOND)
        self._allowance = {key: value for key, value in self._allowance.items() if key in members}
        self._allowance[author] = max(tokens - 1.0, 0.0), now
        return tokens >= 1.0
