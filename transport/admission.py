"""Who is let in: handshakes at the door, and peers by their proven keys.

What it is: the answers to "may this connection go on?", for connections that are made to us and by us. What it is not: the dial
plan (dialing.py), or the choice between two connections to one peer (swarm.py). Nobody is kept out for what he said in
agreement: limits, and bans on proof. Neither changes whose votes count; what a banned member signs comes by way of the others.

Limits are for strangers who come to us. Members, and whom we dialed, are beyond them, so whoever takes all of these places keeps
out newcomers that know nobody else, and nothing more. One place is one key; by IP and by netgroup they are counted for globally
routable addresses only. Who comes when all are taken is refused: nobody is turned out for him, since a newcomer is no better than
who is here, and places at the cost of addresses in four netgroups are dear enough.

A proof bans the key, and for a shorter time strangers from its IP group, or else the same liar would be back under a new key at once.
What can be done with that: TCP's handshake makes the remote address of a connection true, and a proof is only ever of what came over
it, so nobody brings a ban upon an address from which he cannot connect. Whoever shares one with others (a carrier's NAT, a proxy) can
keep strangers among them from this node, as he can by taking the places of that IP; never members, nor who is connected already.

Two processes with one key. A copied home, or an old machine that was thought to be off: each process has a TLS leaf of its own, so
peers can tell them apart. Of two the one that is connected stays, as soon as it shows that it still lives; the other is refused, and
both are told. Whether a process then stops is the node's decision, for a peer's word alone must not silence anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from transport import limits
from transport.address import Address
from transport.ban import Ban
from transport.framing import Kind, encode_frame
from transport.handshake import NOTHING_SUSPECTED, Bye
from transport.identity import PublicKey
from transport.limits import BYE_TEXT_BYTES_MAX
from transport.netgroup import internet_group, ip_group
from transport.session import Session
from transport.tls import TlsPeer

Refusal = tuple[Bye, str]


@dataclass(frozen=True, slots=True)
class _Guest:
    """A connection at the door. A host that is not on the internet is a group of its own."""

    remote: Address
    since: float

    @property
    def group(self) -> bytes:
        return internet_group(self.remote) or self.remote.host.encode()


class Doorway:
    """Connections made to us that have not shaken hands yet. Bounded; who dawdles makes room for who comes."""

    def __init__(self) -> None:
        self._inside: dict[trio.CancelScope, _Guest] = {}

    def __len__(self) -> int:
        return len(self._inside)

    def enter(self, remote: Address, scope: trio.CancelScope, now: float) -> bool:
        """Take a place, if need be from the oldest of the netgroup that holds most; False where there is none to take."""
        guest, ip = _Guest(remote, now), ip_group(remote)
        if ip and sum(ip_group(other.remote) == ip for other in self._inside.values()) >= limits.HANDSHAKES_PER_IP_MAX:
            return False
        if len(self._inside) >= limits.HANDSHAKES_MAX and not self._make_room(guest):
            return False
        self._inside[scope] = guest
        return True

    def leave(self, scope: trio.CancelScope) -> None:
        self._inside.pop(scope, None)

    def _make_room(self, guest: _Guest) -> bool:
        """Who has had his time goes; and at once who is of a netgroup with too many, if the newcomer is not."""
        greediest, count = Counter(other.group for other in self._inside.values()).most_common(1)[0]
        oldest, holder = next((scope, other) for scope, other in self._inside.items() if other.group == greediest)
        is_limited = internet_group(holder.remote) is not None and guest.group != greediest
        is_flooded = is_limited and count > limits.HANDSHAKES_PER_GROUP_MAX
        if guest.since - holder.since < limits.HANDSHAKE_SECONDS_MIN and not is_flooded:
            return False
        del self._inside[oldest]
        oldest.cancel()
        return True


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
        self._banned = Ban(limits.BAN_SECONDS)
        self._banned_ips = Ban(limits.IP_BAN_SECONDS)
        self._own = own
        self._sessions = sessions
        self._coming: dict[trio.abc.Stream, tuple[PublicKey, Address]] = {}  # have a place; a session perhaps not yet
        self._on_twin = on_twin

    def ban(self, key: PublicKey, remote: Address, now: float) -> None:
        """For a proven fault, and for nothing else."""
        self._banned.add(key, now)
        if ip := ip_group(remote):
            self._banned_ips.add(ip, now)

    async def judge(self, peer: TlsPeer, remote: Address, tcp: trio.abc.Stream, *, is_client: bool) -> Refusal | None:
        """Why not to go on, or None. A stranger who came by `tcp` has a place then, until it is `settled`."""
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
        if self._banned.holds(peer.key, trio.current_time()):
            return Bye.BANNED, "it is banned for a proven fault"
        if is_client or peer.key in self.members:
            return None
        return self._stranger(peer.key, remote, tcp)

    def settled(self, tcp: trio.abc.Stream) -> None:
        """Its handshake is over: it has a session now, or needs none."""
        self._coming.pop(tcp, None)

    def suspected(self, key: PublicKey) -> bytes:
        """The name of the connection to that peer on which nothing has been heard for a while, for our HELLO."""
        session = self._sessions.get(key)
        active = None if session is None else session.active
        return active.shaken.id if active is not None and active.is_silent else NOTHING_SUSPECTED

    def _stranger(self, key: PublicKey, remote: Address, tcp: trio.abc.Stream) -> Refusal | None:
        """A place for a stranger who has come to us, also where he has one: he may have moved, or lose it meanwhile.

        It counts from now on, or all that come at once would get one.
        """
        ip, group = ip_group(remote), internet_group(remote)
        if ip and key not in self._sessions and self._banned_ips.holds(ip, trio.current_time()):
            return Bye.BANNED, "a proven liar came from that IP address a moment ago"
        taken = [
            *self._coming.values(),
            *((s.key, s.remote) for s in self._sessions.values() if s.direction == "inbound"),
        ]
        others = [(who, where) for who, where in taken if who != key and who not in self.members]
        if len((self._sessions.keys() | {who for who, _ in others}) - {key}) >= limits.PEERS_MAX:
            return Bye.FULL, "this node has enough peers"
        if ip and len({who for who, where in others if ip_group(where) == ip}) >= limits.INBOUND_PER_IP_MAX:
            return Bye.FULL, "this node has enough peers at that IP address"
        if (
            group
            and len({who for who, where in others if internet_group(where) == group}) >= limits.INBOUND_PER_GROUP_MAX
        ):
            return Bye.FULL, "this node has enough peers of that address group"
        self._coming[tcp] = key, remote
        return None

    def _own_key(self, peer: TlsPeer, remote: Address) -> Refusal | None:
        if peer.leaf_hash == self._own.leaf_hash:
            return Bye.MYSELF, "it is this node itself"
        self._on_twin(remote)
        return Bye.TWIN, "another process uses the key of this node"
