"""Who is let in: handshakes at the door, and peers by their proven keys.

What it is: the answers to "may this connection go on?", for connections that are made to us and by us. What it is not: the dial
plan (dialing.py), or the choice between two connections to one peer (swarm.py). Nobody is kept out for what he said in
agreement: limits, and bans on proof.

Two processes with one key. A copied home, or an old machine that was thought to be off: each process has a TLS leaf of its own, so
peers can tell them apart. Of two the one that is connected stays, as soon as it shows that it still lives; the other is refused, and
both are told. Whether a process then stops is the node's decision, for a peer's word alone must not silence anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import trio

from transport import limits
from transport.address import Address, Scope
from transport.ban import Ban
from transport.framing import Kind, encode_frame
from transport.handshake import NOTHING_SUSPECTED, Bye
from transport.identity import PublicKey
from transport.limits import BYE_TEXT_BYTES_MAX
from transport.session import Session
from transport.tls import TlsPeer


class Doorway:
    """Connections made to us that have not shaken hands yet. Bounded; who dawdles makes room for who comes."""

    def __init__(self) -> None:
        self._inside: dict[trio.CancelScope, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._inside)

    def enter(self, remote: Address, scope: trio.CancelScope, now: float) -> bool:
        """Take a place, if need be from the oldest of the host that holds most; False where there is none to take."""
        of_hosts = Counter(host for host, _ in self._inside.values())
        if remote.scope is Scope.GLOBAL and of_hosts[remote.host] >= limits.HANDSHAKES_PER_HOST_MAX:
            return False
        if len(self._inside) >= limits.HANDSHAKES_MAX:
            greediest = of_hosts.most_common(1)[0][0]
            oldest, began = next((s, at) for s, (host, at) in self._inside.items() if host == greediest)
            if now - began < limits.HANDSHAKE_SECONDS_MIN:
                return False
            del self._inside[oldest]
            oldest.cancel()
        self._inside[scope] = (remote.host, now)
        return True

    def leave(self, scope: trio.CancelScope) -> None:
        self._inside.pop(scope, None)


class Admission:
    """Judges peers once their certificates have proved their keys."""

    def __init__(
        self,
        *,
        own: TlsPeer,
        sessions: Mapping[PublicKey, Session],
        on_twin: Callable[[Address], None],
    ) -> None:
        self.members: frozenset[bytes] = frozenset()
        self.banned = Ban()
        self._own = own
        self._sessions = sessions
        self._on_twin = on_twin

    async def judge(self, peer: TlsPeer, remote: Address, *, is_client: bool) -> tuple[Bye, str] | None:
        """Why not to go on, or None."""
        if peer.key == self._own.key:
            return self._own_key(peer, remote)
        session = self._sessions.get(peer.key)
        active = None if session is None else session.active
        if session is not None and active is not None and session.leaf_hash != peer.leaf_hash:
            if await active.answers(limits.TWIN_SECONDS_MAX):
                session.outbox.push(encode_frame(Kind.TWIN, str(remote).encode()[:BYE_TEXT_BYTES_MAX]))
                return Bye.TWIN, f"another process with this key is connected already, from {active.shaken.remote}"
        elif is_client and active is not None and not active.is_silent:
            return Bye.DUPLICATE, "already connected"
        if self.banned.holds(peer.key, trio.current_time()):
            return Bye.BANNED, "it is banned for a proven fault"
        is_stranger = session is None and peer.key not in self.members and not is_client
        if is_stranger and len(self._sessions) >= limits.PEERS_MAX:
            return Bye.FULL, "this node has enough peers"
        return None

    def suspected(self, key: PublicKey) -> bytes:
        """The name of the connection to that peer on which nothing has been heard for a while, for our HELLO."""
        session = self._sessions.get(key)
        active = None if session is None else session.active
        return active.shaken.id if active is not None and active.is_silent else NOTHING_SUSPECTED

    def _own_key(self, peer: TlsPeer, remote: Address) -> tuple[Bye, str]:
        if peer.leaf_hash == self._own.leaf_hash:
            return Bye.MYSELF, "it is this node itself"
        self._on_twin(remote)
        return Bye.TWIN, "another process uses the key of this node"
