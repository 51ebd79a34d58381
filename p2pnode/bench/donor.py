"""The other end of ``scripts/bench sync``: a process with a long chain and a large model, which it serves to whoever connects.

What it is: the parts that answer (swarm, store, blobs, gossip) as a node has them, without rounds; and beside them a plain TLS stream
under the same contexts, for comparison. What it is not: a node. It prints one line of JSON when it is ready, and ends with its stdin.
"""

import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import trio

import consensus
import transport
from model.config import ModelConfig, TrainingConfig
from model.replica import Replica
from p2pnode.blobs import Blobs, Served
from p2pnode.founding import model_seed
from p2pnode.genesis import Founder, Genesis
from p2pnode.gossip import Gossip
from p2pnode.logs import get_logger
from p2pnode.store import Store
from p2pnode.wire import Role, Status
from transport import content
from transport.tls import tls_identity

MEMBERS = 4
WRITE_BYTES = 256 << 10  # of the plain stream; larger writes carried no more
WIDTH = 512
NONCE = bytes(16)
TEXT = bytes(4096)  # for the genesis; nobody reads it

Handler = Callable[[transport.PublicKey, int, bytes], Awaitable[bytes]]


def founders() -> list[transport.Identity]:
    return [transport.Identity(bytes([seed]) * 32) for seed in range(1, MEMBERS + 1)]


def model_of(mebibytes: int) -> ModelConfig:
    """One layer that takes about so much memory, nearly all of it in one tensor's three parts."""
    feed_forward = max(8, (mebibytes << 20) // (4 * 3 * WIDTH))
    return ModelConfig(width=WIDTH, layers=1, heads=8, key_value_heads=8, feed_forward=feed_forward, context=128)


class Speaker:
    """Swarm, store, blobs and gossip of one identity in one directory."""

    def __init__(
        self,
        directory: Path,
        genesis: Genesis,
        *,
        identity: transport.Identity,
        bootstrap: Sequence[transport.Address] = (),
    ) -> None:
        directory.mkdir(exist_ok=True)
        log = get_logger(part="bench")
        self.genesis = genesis
        self.store = Store(directory / "chain.sqlite", genesis.chain_id)
        self.blobs = Blobs(directory / "blobs", directory / "snapshots")
        self.swarm = transport.Swarm(
            identity=identity,
            listen=transport.Address("127.0.0.1", 0),
            listen_fallback=False,
            announce=None,
            bootstrap=list(bootstrap),
            book=transport.PeerBook(),
            chain_id=transport.ChainId(genesis.chain_id),
            handler=self._handle,
            blobs=Served(self.blobs),
            log=log,
        )
        committee = genesis.state().membership.current
        self.gossip = Gossip(
            identity=identity,
            swarm=self.swarm,
            genesis=genesis,
            store=self.store,
            blobs=self.blobs,
            committee=lambda: committee,
            log=log,
        )

    async def run(self, *, task_status: trio.TaskStatus[transport.Address | None]) -> None:
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(self.swarm.run)
            nursery.start_soon(self.gossip.listen_forever, lambda _: None, {})
            task_status.started(bound)

    async def _handle(self, _: transport.PublicKey, method: int, body: bytes) -> bytes:
        return await self.gossip.answer(method, body)


def make_genesis(config: ModelConfig) -> tuple[Genesis, Replica]:
    training = TrainingConfig()
    replica = Replica.initial(config, training, model_seed(NONCE))
    genesis = Genesis(
        nonce=NONCE,
        founders=tuple(Founder(each.public_key, "") for each in sorted(founders(), key=lambda i: i.public_key)),
        model=config,
        training=training,
        corpus_digest=content.digest_of(TEXT),
        corpus_bytes=len(TEXT),
        model_root=content.content_digest(replica.leaves(), replica.byte_length),
        policy="open",
        probation_contributions=3,
        round_seconds_max=60,
    )
    return genesis, replica


def grow(store: Store, genesis: Genesis, heights: int) -> consensus.ChainState:
    """Empty blocks, decided by everybody: what a chain costs to check, without the model."""
    state, chain_id = genesis.state(), consensus.Digest(genesis.chain_id)
    signers = sorted(founders(), key=lambda each: each.public_key)
    for height in range(1, heights + 1):
        proposer = state.membership.current.proposer(height, 0)
        template = consensus.BlockTemplate(state, proposer)
        block = consensus.build_block(template, contributions=(), model_root=state.model_root)
        entries = []
        for each in signers:
            author = consensus.PublicKey(each.public_key)
            commit = consensus.Commit(author, height, 0, block.hash, consensus.Signature(b""))
            signature = consensus.Signature(each.sign(commit.statement(chain_id)))
            entries.append((author, replace(commit, signature=signature).signature))
        certificate = consensus.CommitCertificate(height, 0, block.hash, tuple(entries))
        store.put_block(block, certificate, {"height": height}, durable=False)
        state = state.after(block, certificate)
    return state


async def serve(directory: Path, mebibytes: int, heights: int) -> None:
    """Until stdin ends."""
    genesis, replica = make_genesis(model_of(mebibytes))
    identity = transport.Identity.generate()
    donor = Speaker(directory, genesis, identity=identity)
    root = donor.blobs.model_root(replica)
    state = grow(donor.store, genesis, heights)
    data, contexts = replica.view(0, replica.byte_length), tls_identity(identity)

    async def plain(tcp: trio.SocketStream) -> None:
        stream = trio.SSLStream(tcp, contexts.server, server_side=True, https_compatible=True)
        await stream.do_handshake()
        await stream.receive_some(1)
        for start in range(0, len(data), WRITE_BYTES):
            await stream.send_all(data[start : start + WRITE_BYTES])
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        bound = await nursery.start(donor.run)
        status = Status(height=state.height, model_root=state.model_root, role=Role.OBSERVER, learning=0)
        donor.gossip.tell_status(status)
        listeners = await nursery.start(trio.serve_tcp, plain, 0)
        plain_port = listeners[0].socket.getsockname()[1]
        ready = {
            "port": bound.port,
            "plain_port": plain_port,
            "genesis": genesis.to_bytes().decode(),
            "model_root": root.hex(),
            "blocks": heights,
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as parent:
            await parent.receive_some(1)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
