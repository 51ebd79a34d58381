"""Finds the culprits of a fork in what honest nodes received: the accountability theorem's other half, written independently.

What it is: every signed PREPARE, COMMIT, PROPOSAL and CONTRIBUTION that some honest node saw, alone or in a certificate, and the two
ways in which statements of one author convict it: two for one slot, and amnesia, which is COMMIT(block, view r) with PREPARE(another
block, view r' > r, valid view < r). What it is not: the engine's evidence, which it is compared with. Messages are shown to it verified;
of a certificate, which nobody signed as a whole, it verifies every entry.
"""

from consensus import (
    NIL,
    Certificate,
    Commit,
    CommitCertificate,
    Contribution,
    Message,
    Prepare,
    PrepareCertificate,
    Proposal,
    PublicKey,
    Verify,
    ViewCertificate,
    ViewStatus,
)
from consensus.certificate import signed_statements
from consensus.encoding import Kind
from p2pnode.simulation.ledger import CHAIN_ID


class Auditor:
    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._slots: dict[tuple[PublicKey, int, int, int, int], tuple[bytes, int]] = {}
        self._guilty: dict[PublicKey, set[int]] = {}  # heights
        self._commits: dict[tuple[PublicKey, int], dict[int, bytes]] = {}
        self._prepares: dict[tuple[PublicKey, int], list[tuple[int, bytes, int]]] = {}

    def saw(self, message: Message) -> None:
        match message:
            case Prepare():
                self._prepare(message.author, message.height, message.view, (message.block_hash, message.valid_view))
            case Commit():
                self._commit(message.author, message.height, message.view, message.block_hash)
            case Proposal():
                shown = (message.block_hash, message.valid_view)
                self._slot(message.author, message.height, message.view, Kind.PROPOSAL, shown)
                if message.certificate is not None:
                    self.saw_certificate(message.certificate)
                if message.block.last_certificate is not None:
                    self.saw_certificate(message.block.last_certificate)
            case ViewStatus():
                for certificate in (message.prepared, message.view_certificate):
                    if certificate is not None:
                        self.saw_certificate(certificate)
            case Contribution():
                body = (message.body(), int(message.purpose))
                self._slot(message.author, message.height, 0, Kind.CONTRIBUTION, body, part=int(message.purpose))
            case _:
                pass

    def saw_certificate(self, certificate: Certificate) -> None:
        statements = signed_statements(certificate, CHAIN_ID)
        good = {author for author, statement, signature in statements if self._verify(author, statement, signature)}
        match certificate:
            case PrepareCertificate():
                value = (certificate.block_hash, certificate.valid_view)
                for author in sorted(good):
                    self._prepare(author, certificate.height, certificate.view, value)
            case CommitCertificate():
                for author in sorted(good):
                    self._commit(author, certificate.height, certificate.view, certificate.block_hash)
            case ViewCertificate():
                for author, block_hash, _ in certificate.entries:
                    if author in good:
                        self._commit(author, certificate.height, certificate.view, block_hash)

    def culprits(self, height: int) -> set[PublicKey]:
        """Convicted by statements of this height."""
        return {author for author, heights in self._guilty.items() if height in heights}

    def guilty(self) -> set[PublicKey]:
        return set(self._guilty)

    # -- helpers --

    def _slot(
        self, author: PublicKey, height: int, view: int, kind: Kind, value: tuple[bytes, int], *, part: int = 0
    ) -> None:
        if self._slots.setdefault((author, height, view, int(kind), part), value) != value:
            self._guilty.setdefault(author, set()).add(height)

    def _prepare(self, author: PublicKey, height: int, view: int, value: tuple[bytes, int]) -> None:
        self._slot(author, height, view, Kind.PREPARE, value)
        self._prepares.setdefault((author, height), []).append((view, *value))
        for committed, block_hash in self._commits.get((author, height), {}).items():
            self._amnesia(author, height, (committed, block_hash), (view, *value))

    def _commit(self, author: PublicKey, height: int, view: int, block_hash: bytes) -> None:
        self._slot(author, height, view, Kind.COMMIT, (block_hash, -1))
        if block_hash == NIL:
            return
        self._commits.setdefault((author, height), {})[view] = block_hash
        for prepare in self._prepares.get((author, height), []):
            self._amnesia(author, height, (view, block_hash), prepare)

    def _amnesia(
        self, author: PublicKey, height: int, commit: tuple[int, bytes], prepare: tuple[int, bytes, int]
    ) -> None:
        (committed, block_hash), (view, other, valid_view) = commit, prepare
        if view > committed and other not in (NIL, block_hash) and valid_view < committed:
            self._guilty.setdefault(author, set()).add(height)
