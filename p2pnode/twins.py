"""Whether another process uses this node's key: a copied home, or a machine that was thought to be off.

What it is: the words of peers, weighed. Two processes with one key sign two votes for one slot, which is evidence against their owner, so
the one that learns of the other signs nothing any more. What it is not: the votes themselves; the engine knows which of them are in its
log (``consensus`` rule X6), and what arrives in our name by way of others is shown to us (``relay``).

Believed at once is what proves itself: a vote with our signature, or our own key met at the other end of a connection. A peer that says
"this key is connected already" proves nothing, and must not silence a node by saying so: that counts once a blocking set of members has
said it, of whom one is honest.
"""

from collections.abc import Callable, Collection

import trio

import consensus
import transport
from p2pnode.gossip import Gossip
from p2pnode.logs import Logger
from p2pnode.wire import Malformed

WORD_SECONDS_MAX = (
    2.0  # a start waits so long for members that are not there; with enough of them it takes milliseconds
)
LOOK_SECONDS = 0.05
STRANGERS_MAX = 64  # who refuse this node and are no members: remembered, because they may become some
PLACES_MAX = 64  # remembered so that each is one line in the log; a peer may name any number


class Twins:
    """``found`` is called once, with the reason, when it is certain."""

    def __init__(
        self, *, committee: Callable[[], consensus.Committee], found: Callable[[str], None], log: Logger
    ) -> None:
        self._committee = committee
        self._found = found
        self._log = log
        self._refused_by: dict[bytes, str] = {}
        self._places: set[str] = set()
        self._is_certain = False

    def seen(self, event: transport.TwinSeen) -> None:
        """A peer speaks of another process with our key, or we met it."""
        if event.witness is None:
            self._settle(f"another process with this key is at {event.where}")
        elif event.refused:
            committee = self._committee()
            self._refused_by[event.witness] = event.where
            strangers = [key for key in self._refused_by if key not in committee]
            if len(strangers) > STRANGERS_MAX:
                del self._refused_by[strangers[0]]
            witnesses = [where for key, where in self._refused_by.items() if key in committee]
            if len(witnesses) >= committee.blocking():
                self._settle(f"{len(witnesses)} members refuse this node: {event.where}")
        elif event.where not in self._places and len(self._places) < PLACES_MAX:
            self._places.add(event.where)
            hint = "stop the other one: two votes for one slot cost the key its membership"
            peer = transport.short_id(event.witness)
            self._log.warning(
                "another process with this key tries to connect", address=event.where, peer=peer, hint=hint
            )

    def _settle(self, reason: str) -> None:
        if not self._is_certain:
            self._is_certain = True
            self._found(reason)

    async def hear_first(self, gossip: Gossip, me: bytes, take: Callable[[consensus.Message], None]) -> None:
        """Before this node votes: what do members hold that was signed in its name? ``take`` gets every vote of it, verified.

        Until a blocking set of members has answered, and all that are connected, or for two seconds.
        """
        members = self._committee()
        if me not in members or len(members) == 1:
            return
        asked: set[bytes] = set()
        answered: set[bytes] = set()

        async def ask(peer: bytes) -> None:
            try:
                for message in await gossip.fetch_spoken(peer):
                    take(message)
            except (transport.RequestFailed, Malformed):
                pass
            answered.add(peer)

        def is_enough(connected: Collection[bytes]) -> bool:
            heard = answered | (self._refused_by.keys() & set(members.members))
            return heard >= set(connected) and len(heard) >= min(members.blocking(), len(members) - 1)

        with trio.move_on_after(WORD_SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                while True:
                    connected = [peer for peer in gossip.connected() if peer in members]
                    for peer in connected:
                        if peer not in asked:
                            asked.add(peer)
                            nursery.start_soon(ask, peer)
                    if is_enough(connected):
                        break
                    await trio.sleep(LOOK_SECONDS)
                nursery.cancel_scope.cancel()
