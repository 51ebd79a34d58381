"""What must hold in a network of whole nodes, checked as it happens, and the trace by which two runs are compared.

What it is: a second opinion that looks at what honest nodes hand to the wire, at what they decide and at the models they stand on. What it is
not: the engine's own checks; nothing of theirs is used but the forms of the messages.
"""

import hashlib

import trio

import consensus
import transport
from p2pnode.genesis import Genesis


class Violation(AssertionError):
    """An invariant is broken; the text says which."""


class Watch:
    """Of one run. ``names`` are for people."""

    def __init__(self, genesis: Genesis, honest: set[bytes], names: dict[bytes, str]) -> None:
        self.lines: list[str] = []
        self.blocks: dict[int, bytes] = {}  # by height: the one block that any honest node decided
        self.roots: dict[int, bytes] = {0: genesis.model_root}
        self.first_at: dict[int, float] = {}  # virtual seconds of each height's first decision
        self._chain_id = consensus.Digest(genesis.chain_id)
        self._honest = honest
        self._names = names
        self._began = trio.current_time()
        self._said: dict[tuple[bytes, int, int, int], bytes] = {}
        self._locks: dict[tuple[bytes, int], tuple[int, bytes]] = {}

    def note(self, name: str, what: str) -> None:
        self.lines.append(f"{trio.current_time() - self._began:.6f} {name} {what}")

    @property
    def trace_hash(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]

    def said(self, message: consensus.Message) -> None:
        """An honest node hands a signed message to the wire."""
        name, statement = self._names[message.author], message.statement(self._chain_id)
        kind = type(message).__name__
        self.note(
            name, f"{kind} {message.height} {getattr(message, 'view', '')} {hashlib.sha256(statement).hexdigest()[:8]}"
        )
        if not isinstance(message, consensus.Proposal | consensus.Prepare | consensus.Commit):
            if not isinstance(message, consensus.Contribution):
                return
            slot = (message.author, message.height, -1 - message.purpose, 0)
        else:
            slot = (message.author, message.height, message.view, message.kind)
        if self._said.setdefault(slot, statement) != statement:
            raise Violation(f"{name} signed two different messages for height {message.height}: {kind}")
        if isinstance(message, consensus.Prepare | consensus.Commit):
            self._lock(name, message)

    def _lock(self, name: str, vote: consensus.Prepare | consensus.Commit) -> None:
        """Rule V2 from the statements alone: what was committed to binds every later PREPARE, across restarts."""
        if vote.block_hash == consensus.NIL:
            return
        key = (vote.author, vote.height)
        lock = self._locks.get(key)
        if isinstance(vote, consensus.Commit):
            if lock is None or vote.view > lock[0]:
                self._locks[key] = (vote.view, vote.block_hash)
        elif lock is not None and vote.view > lock[0] and vote.valid_view < lock[0]:
            raise Violation(f"{name} forgot its lock of view {lock[0]} at height {vote.height}")

    def decided(self, me: bytes, block: consensus.Block, certificate: consensus.CommitCertificate) -> None:
        self.note(self._names[me], f"decides {block.height} {certificate.view} {block.hash.hex()[:8]}")
        self.first_at.setdefault(block.height, trio.current_time())
        if self.blocks.setdefault(block.height, block.hash) != block.hash:
            raise Violation(f"FORK at height {block.height}: {self._names[me]} decides another block")
        for evidence in block.evidence:
            if evidence.author in self._honest:
                raise Violation(f"block {block.height} accuses {self._names[evidence.author]}, who is honest")

    def stands(self, me: bytes, state: consensus.ChainState) -> None:
        """An honest node's model is now that of a height."""
        self.note(self._names[me], f"stands at {state.height} {state.model_root.hex()[:8]}")
        if self.roots.setdefault(state.height, state.model_root) != state.model_root:
            raise Violation(f"{self._names[me]} stands on another model at height {state.height}")
        if state.height and self.blocks.setdefault(state.height, state.block_hash) != state.block_hash:
            raise Violation(f"FORK at height {state.height}: {self._names[me]} follows another chain")

    def follows(
        self, name: str, chain: list[tuple[consensus.Block, consensus.CommitCertificate]], state: consensus.ChainState
    ) -> None:
        """A chain on a disk, from the genesis: every link, certificate and committee. ``state`` is that of the genesis."""
        for block, certificate in chain:
            problem = consensus.check_block(block, state, transport.verify) or consensus.check_certificate(
                certificate, state.membership.current, chain_id=self._chain_id, verify=transport.verify
            )
            if problem is not None or certificate.block_hash != block.hash:
                raise Violation(f"{name} holds a chain that does not hold at height {block.height}: {problem}")
            if self.blocks.setdefault(block.height, block.hash) != block.hash:
                raise Violation(f"FORK at height {block.height} on the disk of {name}")
            state = state.after(block, certificate)
