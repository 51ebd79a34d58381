"""This node's voice and ears: consensus messages to frames and back, statuses, and questions to peers.

What it is: the one translator between ``consensus`` objects and the bytes that ``transport`` carries. What it is not: a judge; signatures
of envelopes are verified by the transport, certificates and blocks by whoever uses them.
What is heard is passed on as ``relay`` says. An announcement crosses a gap once its bytes are here: who hears it can have them from us.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import assert_never

import trio

import consensus
import transport
from consensus import Purpose
from model.errors import SnapshotError
from model.replica import Replica
from p2pnode.arriving import Arriving
from p2pnode.blobs import Blobs
from p2pnode.genesis import Genesis
from p2pnode.links import LINKS_KIND, UNSAID, Links, Standing
from p2pnode.links import Malformed as LinksMalformed
from p2pnode.logs import Logger
from p2pnode.overlay import Overlay
from p2pnode.relay import NOBODY, Relay
from p2pnode.spreading import Spreading
from p2pnode.store import Store
from p2pnode.wire import (
    BLOCK_BYTES_MAX,
    BLOCKS_RESPONSE_BYTES_MAX,
    SNAPSHOTS_BYTES_MAX,
    SPOKEN_BYTES_MAX,
    SPOKEN_MAX,
    FrameKind,
    Malformed,
    Method,
    Status,
    decode_blocks,
    decode_blocks_request,
    decode_snapshots,
    decode_spoken,
    encode_blocks,
    encode_blocks_request,
    encode_snapshots,
    encode_spoken,
)
from transport.machine import in_thread, random_bytes, unix_seconds
from transport.spread import Spread

BLOCK_SECONDS_MAX = 2.0  # a decision waits for this one, and every signer has it: 128 KiB over half a Mbit/s
SERVING_THREADS_MAX = 4  # of the forty: whoever asks much waits for itself, and no vote waits for a thread behind it
ASK_SECONDS_MAX = 10.0  # a page of blocks over 7 Mbit/s; then another peer is asked
Block = tuple[consensus.Block, consensus.CommitCertificate]


class Gossip:
    """Speaks for one identity in one network. ``committee`` tells the ring's order as it is now."""

    def __init__(
        self,
        *,
        identity: transport.Identity,
        swarm: transport.Swarm,
        genesis: Genesis,
        store: Store,
        blobs: Blobs,
        committee: Callable[[], consensus.Committee],
        log: Logger,
    ) -> None:
        self.statuses: dict[bytes, Status] = {}
        self.on_status: Callable[[], None] = lambda: None
        self.on_peer: Callable[[bytes], None] = lambda _: None
        self.on_twin: Callable[[transport.TwinSeen], None] = lambda _: None
        self.on_reach: Callable[[transport.Reach], None] = lambda _: None
        self.deliver: Callable[[consensus.Event], Awaitable[None]] | None = None
        self.undecided_block: Callable[[bytes], consensus.Block | None] = lambda _: None
        self._identity = identity
        self._me = consensus.PublicKey(identity.public_key)
        self._swarm = swarm
        self._chain_id = consensus.Digest(genesis.chain_id)
        self._genesis = genesis
        self._store = store
        self._blobs = blobs
        self.committee = committee
        self._log = log
        self._bad_messages = transport.Refusals(log, "message refused")
        self._bad_frames = transport.Refusals(log, "frame refused")
        self._serving = trio.CapacityLimiter(SERVING_THREADS_MAX)
        self._status: Status | None = None
        self._offered: consensus.Contribution | None = None
        self._spoken: dict[consensus.PublicKey, deque[consensus.Prepare | consensus.Commit]] = {}
        self._held: dict[
            tuple[bytes, Purpose], consensus.Contribution
        ] = {}  # others' of the open height, with their bytes
        self._tellers: dict[tuple[bytes, Purpose], tuple[consensus.Contribution, dict[bytes, None]]] = {}
        self.links = Links(self._me)
        self._overlay = Overlay(self._me, seed=genesis.chain_id, rng=Random(random_bytes(16)))  # noqa: S311 - no secret
        self.relay = Relay(
            self._me,
            links=self.links,
            committee=committee,
            height=lambda: 0 if self._status is None else self._status.height,
        )
        self.spreading = Spreading(self._me, swarm=swarm, committee=committee, relay=self.relay)

    # --- speaking ----------------------------------------------------------------------------------------------------------------

    def sign_contribution(
        self, *, height: int, base_root: bytes, payload_digest: bytes, payload_bytes: int, codec: int, purpose: Purpose
    ) -> consensus.Contribution:
        """Our announcement of a payload, signed. Sign one a slot only: see ``Rounds``."""
        unsigned = consensus.Contribution(
            author=self._me,
            height=height,
            base_root=consensus.Digest(base_root),
            payload_digest=consensus.Digest(payload_digest),
            payload_bytes=payload_bytes,
            codec=codec,
            purpose=purpose,
            signature=consensus.Signature(b""),
        )
        return replace(unsigned, signature=self.sign(unsigned.statement(self._chain_id)))

    def sign(self, statement: bytes) -> consensus.Signature:
        return consensus.Signature(self._identity.sign(statement))

    def envelope(self, message: consensus.Message) -> transport.Envelope:
        """A signed message in the form in which it travels and can be passed on."""
        return transport.Envelope(
            author=transport.PublicKey(message.author),
            signature=message.signature,
            statement=message.statement(self._chain_id),
            attachment=message.attachment(),
        )

    def broadcast(self, message: consensus.Message) -> None:
        if isinstance(message, consensus.Contribution):
            self._offered = message
        self._swarm.publish(self.envelope(message).frame())

    async def spread(self, contribution: consensus.Contribution, payload: bytes) -> None:
        """The bytes of our announcement to a large committee, through its members; a small one fetches them."""
        if self.spreading.is_worth_it(self._me, len(payload)):
            hashes = await in_thread(self._blobs.leaf_hashes, contribution.payload_digest)
            self.spreading.offer(contribution, payload, hashes or ())

    def send(self, to: Sequence[bytes], message: consensus.Message) -> None:
        """To some peers only. No honest node needs it; the attacks do."""
        self._swarm.publish(self.envelope(message).frame(), to=[transport.PublicKey(key) for key in to])

    def tell(self, peer: bytes, things: Sequence[consensus.Message | consensus.Certificate]) -> None:
        """What a peer that has just come may have missed."""
        for thing in things:
            match thing:
                case consensus.PrepareCertificate() | consensus.CommitCertificate() | consensus.ViewCertificate():
                    self._swarm.publish(transport.encode_frame(FrameKind.CERTIFICATE, thing.encode()), to=[peer])
                case _:
                    self.send([peer], thing)

    def broadcast_certificate(self, certificate: consensus.Certificate) -> None:
        self._swarm.publish(transport.encode_frame(FrameKind.CERTIFICATE, certificate.encode()))

    def tell_evidence(self, peer: bytes, evidence: consensus.Evidence) -> None:
        self._swarm.publish(transport.encode_frame(FrameKind.EVIDENCE, evidence.encode()), to=[peer])

    def broadcast_evidence(self, evidence: consensus.Evidence) -> None:
        self._swarm.publish(transport.encode_frame(FrameKind.EVIDENCE, evidence.encode()))

    def tell_status(self, status: Status) -> None:
        """Tell everybody where we stand, if it changed."""
        if status != self._status:
            self._status = status
            self._swarm.publish(transport.encode_frame(FrameKind.STATUS, status.encode()))
            self.tell_links()

    def standings(self) -> dict[bytes, Standing]:
        """Where others say that they stand: peers, and members that are heard of through others."""
        near = {key: Standing(status.height, status.learning) for key, status in self.statuses.items()}
        return {**self.links.standings(), **near}

    def tend_links(self) -> None:
        """Tell the swarm who the members are, and which of them this node is to be linked to."""
        members = self.committee().members
        wanted = self._overlay.wanted(members, live=self._swarm.live(), now=trio.current_time())
        self._swarm.members(members, links=wanted)

    def tell_links(self) -> None:
        """Tell everybody which members this one hears, if that changed or has not been said for a while.

        With where it stands, if some hear of that only so.
        """
        members = self.committee().members
        if self._me in members:
            heard = self._swarm.live() & set(members)
            own = self._status if len(heard) < len(members) - 1 else None
            said = self.links.say(
                heard,
                chain_id=self._chain_id,
                sign=self.sign,
                now=trio.current_time(),
                unix_seconds=unix_seconds(),
                standing=UNSAID if own is None else Standing(own.height, own.learning),
            )
            if said is not None:
                self._swarm.publish(said.frame())

    def reachable(self) -> set[bytes]:
        """Members that this node hears, directly or through others; with itself, if it is one."""
        return self.links.reachable(self._swarm.live(), self.committee().members)

    def steps_to(self, count: int) -> int:
        """How many links away the farthest of so many members is, this node among them; 1 where they cannot be reached."""
        steps = list(self.links.steps(self._swarm.live(), self.committee().members).values())
        return max(steps[count - 1], 1) if len(steps) >= count else 1

    def tell_held(self, contribution: consensus.Contribution) -> None:
        """The bytes of a member's announcement are here: pass it on to whoever cannot hear its author."""
        self._held = {slot: other for slot, other in self._held.items() if other.height >= contribution.height}
        if contribution.author in self.committee().members:
            self._held[contribution.author, contribution.purpose] = contribution
            self.send(self.relay.across(contribution.author, self._swarm.live()), contribution)

    # --- listening -----------------------------------------------------------------------------------------------------------------

    async def listen_forever(
        self, hear: Callable[[consensus.Message], None], failures: dict[transport.Address, str]
    ) -> None:
        """Turn what the swarm says into engine events. ``hear`` gets every signed message beside the engine."""
        async for event in self._swarm.events:  # the transport logs its own news
            match event:
                case transport.EnvelopeReceived():
                    await self._envelope(event, hear)
                case transport.FrameReceived():
                    await self.frame(event)
                case transport.PeerConnected(peer=peer):
                    failures.clear()
                    self._greet(peer.key)
                case transport.PeerDisconnected(peer=peer):
                    self.statuses.pop(peer.key, None)
                    self.on_status()
                case transport.BootstrapFailed(address=address, reason=reason):
                    failures[address] = reason
                case transport.TwinSeen():
                    self.on_twin(event)
                case transport.ReachabilityChanged(reach=reach):
                    self.on_reach(reach)
                case _:
                    assert_never(event)

    def _greet(self, peer: transport.PublicKey) -> None:
        """A peer that has just come is told where we stand, and what we offer to the open height."""
        if self._status is None:
            return
        self._swarm.publish(transport.encode_frame(FrameKind.STATUS, self._status.encode()), to=[peer])
        self._tell_offer(peer)
        self.on_peer(peer)

    def _tell_offer(self, peer: bytes) -> None:
        """Ours, and those of members that it may not hear."""
        if self._status is None:
            return
        held = [c for c in self._held.values() if peer in self.relay.across(c.author, [peer])]
        for offered in [*held, *([self._offered] if self._offered is not None else [])]:
            if offered.height == self._status.height + 1:
                self.send([peer], offered)

    async def _envelope(self, event: transport.EnvelopeReceived, hear: Callable[[consensus.Message], None]) -> None:
        try:
            if event.envelope.kind == LINKS_KIND:
                self._take_links(event)
                return
            message = message_of(self._chain_id, event.envelope)
        except (consensus.Malformed, LinksMalformed) as problem:
            self._bad_messages.say(transport.short_id(event.peer_key), str(problem))
            return
        self._pass_on(event, message)
        if isinstance(message, consensus.Contribution):
            self._note_teller(message, event.peer_key)
        if event.is_first and isinstance(message, consensus.Prepare | consensus.Commit):
            self._remember(message)
        hear(message)
        await self._deliver(consensus.MessageReceived(message))

    def _pass_on(self, event: transport.EnvelopeReceived, message: consensus.Message) -> None:
        if self._me not in self.committee().members:
            return
        live = self._swarm.live()
        if isinstance(message, consensus.Contribution):  # ``tell_held`` carries it across
            live = live - set(self.relay.across(message.author, live))
        targets = self.relay.targets(
            message.author, came_from=event.peer_key, height=message.height, is_first=event.is_first, live=live
        )
        if targets != NOBODY:
            frame = event.envelope.frame()
            self._swarm.publish(frame, to=targets.at_once)
            self._swarm.publish(frame, to=targets.along, along=True)

    def _note_teller(self, contribution: consensus.Contribution, peer: bytes) -> None:
        """Where many cannot hear the author, a member that announces for him has the bytes, and of the others most have not.

        Whoever else does so only wants to be asked first, and members are few.
        """
        members = self.committee().members
        if contribution.author not in members or peer not in members:
            return
        slot = contribution.author, contribution.purpose
        newest, tellers = self._tellers.get(slot, (contribution, {}))
        if contribution.height > newest.height:
            newest, tellers = contribution, {}
        if contribution.payload_digest == newest.payload_digest:
            self._tellers[slot] = newest, tellers | {peer: None}
        if len(self._tellers) > 2 * len(Purpose) * len(members):
            self._tellers = {slot: told for slot, told in self._tellers.items() if slot[0] in members}

    def _remember(self, vote: consensus.Prepare | consensus.Commit) -> None:
        """A member's newest votes, to be shown to a process that comes with its key: it may not know of them."""
        members = self.committee().members
        if vote.author in members:
            self._spoken.setdefault(vote.author, deque(maxlen=SPOKEN_MAX)).append(vote)
            for gone in self._spoken.keys() - set(members):
                del self._spoken[gone]

    def _take_links(self, event: transport.EnvelopeReceived) -> None:
        """What a member says of its links; passed on once, to whoever cannot hear it."""
        author: bytes = event.envelope.author
        if self.links.take(event.envelope, self.committee().members) and self._me in self.committee().members:
            across = set(self.relay.across(author, self._swarm.live())) - {event.peer_key}
            self._swarm.publish(event.envelope.frame(), to=across)

    async def frame(self, event: transport.FrameReceived) -> None:
        """Take in an unsigned frame; what is malformed is logged, and that is all."""
        try:
            match event.kind:
                case FrameKind.STATUS:
                    is_first = event.peer_key not in self.statuses
                    self.statuses[event.peer_key] = Status.decode(event.body)
                    if is_first:
                        self._tell_offer(event.peer_key)  # only now it has an ear for what was said before
                    self.on_status()
                case FrameKind.CERTIFICATE:
                    await self._deliver(consensus.CertificateReceived(consensus.decode_certificate(event.body)))
                case FrameKind.EVIDENCE:
                    await self._deliver(consensus.EvidenceReceived(consensus.Evidence.decode(event.body)))
                case FrameKind.SPREAD:
                    self.spreading.take(event.peer_key, event.body)
                case _:
                    raise Malformed(f"unknown frame kind 0x{event.kind:02x}")
        except (Malformed, consensus.Malformed) as problem:
            self._bad_frames.say(transport.short_id(event.peer_key), str(problem))

    async def _deliver(self, event: consensus.Event) -> None:
        if self.deliver is not None:  # not before this node knows where the chain is
            await self.deliver(event)

    # --- asking ----------------------------------------------------------------------------------------------------------------------

    def peers_at(self, height: int) -> list[bytes]:
        """Connected peers that say they decided this height, the farthest first."""
        live = self._swarm.live()
        able = [(status.height, key) for key, status in self.statuses.items() if status.height >= height]
        return [key for _, key in sorted(able, reverse=True) if key in live]

    def connected(self) -> list[bytes]:
        """Peers that can be asked: one that has fallen silent would be waited for in vain."""
        return list(self._swarm.live())

    async def fetch_blocks(self, peer: bytes, first: int, count: int) -> tuple[list[Block], int]:
        """A page of blocks with their certificates, and its length in bytes. Raises RequestFailed or Malformed."""
        body = await self._ask(peer, Method.BLOCKS, encode_blocks_request(first, count), BLOCKS_RESPONSE_BYTES_MAX)
        return await in_thread(read_page, body), len(body)

    async def fetch_block(self, block_hash: bytes, holders: Sequence[bytes]) -> consensus.Block | None:
        """An undecided block by its hash, from whoever signed for it; then from other members, who may stand in between."""
        connected = set(self.connected())
        for holder in dict.fromkeys([*holders, *self.committee().members]):
            if holder not in connected:
                continue
            try:
                answer = await self._ask(
                    holder, Method.BLOCK, block_hash, BLOCK_BYTES_MAX, seconds_max=BLOCK_SECONDS_MAX
                )
                block = consensus.Block.decode(answer)
            except (transport.RequestFailed, consensus.Malformed):
                continue
            if block.hash == block_hash:
                return block
        return None

    async def fetch_spoken(self, peer: bytes) -> list[consensus.Message]:
        """What a peer holds that was voted in our name at undecided heights, verified. Raises RequestFailed or Malformed."""
        answer = await self._ask(peer, Method.SPOKEN, b"", SPOKEN_BYTES_MAX, seconds_max=BLOCK_SECONDS_MAX)
        spoken = []
        for encoded in decode_spoken(answer):
            try:
                envelope = transport.Envelope.decode(encoded)
                message = message_of(self._chain_id, envelope)
            except (transport.Malformed, consensus.Malformed) as problem:
                raise Malformed(str(problem)) from None
            if message.author != self._me or not envelope.is_authentic():
                raise Malformed("a vote that is not ours")
            spoken.append(message)
        return spoken

    async def fetch_snapshots(self, peer: bytes) -> list[tuple[int, bytes]]:
        """The whole models that a peer offers; empty when it does not answer well."""
        try:
            return decode_snapshots(await self._ask(peer, Method.SNAPSHOTS, b"", SNAPSHOTS_BYTES_MAX))
        except (transport.RequestFailed, Malformed):
            return []

    async def fetch_payload(
        self, digest: bytes, length: int, holders: Sequence[bytes], *, hurry: bool = False
    ) -> bytes | None:
        """A payload's verified bytes, from our disk, from relays or from a holder; in a ``hurry`` where a block waits for it."""
        held = await in_thread(self._blobs.get, digest) if self._blobs.holds(digest) else None
        if held is not None:
            return held
        spread = self.spreading.find(digest)
        if spread is None:
            return await self.fetch_blob(digest, length, holders)
        await self.spreading.settle(spread, hurry=hurry)
        return spread.data() if spread.whole.is_set() else await self._fetch_rest(spread, holders)

    async def _fetch_rest(self, spread: Spread, holders: Sequence[bytes]) -> bytes | None:
        """From holders what relays have not brought; ``None`` when nobody delivers."""
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                await self._ask_holders(spread, holders)
                nursery.cancel_scope.cancel()

            nursery.start_soon(ask)
            await spread.whole.wait()  # a relay may be late, and no holder needed after all
            nursery.cancel_scope.cancel()
        return spread.data() if spread.whole.is_set() else None

    async def _ask_holders(self, spread: Spread, holders: Sequence[bytes]) -> None:
        order, lacking = self._order(holders, spread.digest), spread.missing()
        try:
            await self._swarm.fetch(spread.digest, spread.length, holders=order, sink=spread.sink, leaves=lacking)
        except transport.RequestFailed as problem:
            self._log.info("fetch failed", digest=spread.digest.hex()[:16], reason=problem.reason)

    async def fetch_blob(self, digest: bytes, length: int, holders: Sequence[bytes]) -> bytes | None:
        """Verified bytes from the named holders that are connected, then from anybody; ``None`` when nobody delivers."""
        try:
            return await self._swarm.fetch_bytes(digest, length, holders=self._order(holders, digest))
        except transport.RequestFailed as problem:
            self._log.info("fetch failed", digest=digest.hex()[:16], reason=problem.reason)
            return None

    def _order(self, holders: Sequence[bytes], digest: bytes) -> Callable[[], list[bytes]]:
        """Whom to ask: these, then whoever has announced it to us, then anybody."""

        def order() -> list[bytes]:
            connected = self.connected()
            told = [peer for one, tellers in self._tellers.values() if one.payload_digest == digest for peer in tellers]
            first = [key for key in (*holders, *told) if key in connected]
            return list(dict.fromkeys([*first, *connected]))

        return order

    async def fetch_file(self, blob: Arriving, holders: Sequence[bytes]) -> bool:
        """The leaves that a large blob's open file lacks, from whoever of ``holders`` is connected, and of others who fetch it;
        whether it is whole then. Raises OSError where the disk does not take them.
        """
        order, digest, length = self._order(holders, blob.digest), blob.digest, blob.length
        try:
            fetch = partial(self._swarm.fetch, digest, length, holders=order, sink=blob.take, blocking=True)
            hashes = await fetch(leaves=())
            missing = await in_thread(blob.missing, hashes)
            await fetch(leaves=missing, hashes=hashes, read=partial(in_thread, blob.read))
        except transport.RequestFailed as problem:
            self._log.info("fetch failed", digest=digest.hex()[:16], reason=problem.reason)
            return False
        return True

    async def fetch_model(self, root: bytes, like: Replica, holders: Sequence[bytes]) -> Replica | None:
        """The model of a certified root; an attempt that ends early, with the process too, leaves what it got for the next."""
        blob = self._blobs.arriving(root, like.byte_length)
        try:
            await in_thread(blob.open)
            if not await self.fetch_file(blob, holders):
                return None
            replica = await in_thread(Replica.from_file, like.config, like.training, blob.path)
            is_right = await in_thread(self._blobs.model_root, replica) == root
        except (OSError, SnapshotError) as problem:  # a full disk, most likely: half a model is in the way
            self._log.error("model not taken", root=root.hex()[:16], reason=str(problem))
            replica, is_right = None, False
        finally:
            blob.close()
        await in_thread(blob.remove)
        return replica if is_right else None

    async def fetch_certified_model(self, root: bytes, own: Replica) -> tuple[Replica, str]:
        """The model of a certified root, and the name of the first tensor in which ours differs: only the leaves that differ travel."""
        while True:
            blob = self._blobs.arriving(root, own.byte_length)
            await in_thread(blob.begin_with, own.view(0, own.byte_length))
            replica = await self.fetch_model(root, own, self.connected())
            if replica is not None:
                return replica, await in_thread(first_difference, own, replica)
            await trio.sleep(1)

    async def _ask(
        self, peer: bytes, method: Method, body: bytes, bytes_max: int, *, seconds_max: float | None = None
    ) -> bytes:
        seconds = ASK_SECONDS_MAX if seconds_max is None else seconds_max
        return await self._swarm.request(
            transport.PublicKey(peer), method, body, timeout_seconds=seconds, response_bytes_max=bytes_max
        )

    # --- answering -------------------------------------------------------------------------------------------------------------------

    async def answer(self, method: int, body: bytes, *, peer: bytes = b"") -> bytes:
        """What peers may ask (``transport.RequestHandler``). Raises RequestRefused."""
        match method:
            case Method.GENESIS:
                return self._genesis.to_bytes()
            case Method.BLOCKS:
                try:
                    first, count = decode_blocks_request(body)
                except Malformed as problem:
                    raise transport.RequestRefused(str(problem)) from None
                return await in_thread(self._page, first, count, limiter=self._serving)
            case Method.BLOCK:
                return await self._block(body)
            case Method.SPOKEN:
                decided = 0 if self._status is None else self._status.height
                votes = [v for v in self._spoken.get(consensus.PublicKey(peer), ()) if v.height > decided]
                return encode_spoken([self.envelope(vote).encode() for vote in votes])
            case Method.SNAPSHOTS:
                return encode_snapshots(await in_thread(self._models, limiter=self._serving))
            case _:
                raise transport.RequestRefused(f"unknown method 0x{method:02x}")

    def _page(self, first: int, count: int) -> bytes:
        return encode_blocks(self._store.block_rows(first, count))

    async def _block(self, block_hash: bytes) -> bytes:
        block = self.undecided_block(block_hash)
        if block is not None:
            return block.encode()
        encoded = await in_thread(self._store.block_with_hash, block_hash, limiter=self._serving)
        if encoded is None:
            raise transport.RequestRefused("no such block here")
        return encoded

    def _models(self) -> list[tuple[int, bytes]]:
        """The newest model, from memory, and the snapshots on disk."""
        newest = (
            [(self._status.height, self._status.model_root)] if self._status is not None and self._status.height else []
        )
        return [*newest, *self._blobs.snapshots()]


def message_of(chain_id: consensus.Digest, envelope: transport.Envelope) -> consensus.Message:
    """The message that an envelope carries; the inverse of ``Gossip.envelope``. Raises consensus.Malformed."""
    return consensus.decode_message(
        chain_id,
        author=consensus.PublicKey(envelope.author),
        signature=consensus.Signature(envelope.signature),
        statement=envelope.statement,
        attachment=envelope.attachment,
    )


def read_page(body: bytes) -> list[Block]:
    """Decode a page of blocks. Raises Malformed of either package."""
    page = []
    for encoded, certificate in decode_blocks(body):
        page.append((consensus.Block.decode(encoded), decision(certificate)))
    return page


def decision(encoded: bytes) -> consensus.CommitCertificate:
    """An encoded certificate that decides a block. Raises Malformed."""
    certificate = consensus.decode_certificate(encoded)
    if not isinstance(certificate, consensus.CommitCertificate):
        raise consensus.Malformed("not a commit certificate")
    return certificate


def first_difference(own: Replica, certified: Replica) -> str:
    """The first tensor in which two models differ."""
    differs = (own.theta != certified.theta).nonzero()[0]
    return own.layout.locate(int(differs[0])) if len(differs) else "outer momentum"
