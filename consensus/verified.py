"""Remembers which signatures were found good, so that a certificate of votes already seen costs no second verification.

The key is (author, statement, signature): a signature over other bytes is another entry. Two generations bound the memory;
forgetting one only costs the time to verify it again. Bad signatures are not remembered: they are free to make.
"""

from typing import TypeAlias

from consensus.identifiers import PublicKey, Signature, Verify
from consensus.limits import VERIFIED_SIGNATURES_MAX

_Signed: TypeAlias = tuple[PublicKey, bytes, Signature]


class VerifiedSignatures:
    """A `Verify` with a memory."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._young: set[_Signed] = set()
        self._old: set[_Signed] = set()

    def __call__(self, author: PublicKey, statement: bytes, signature: Signature) -> bool:
        signed = (author, statement, signature)
        if signed in self._young:
            return True
        if signed not in self._old and not self._verify(author, statement, signature):
            return False
        self._remember(signed)
        return True

    def remember(self, author: PublicKey, statement: bytes, signature: Signature) -> None:
        """Somebody whom we trust (our own transport, our own signer) has verified this."""
        self._remember((author, statement, signature))

    def _remember(self, signed: _Signed) -> None:
        if len(self._young) >= VERIFIED_SIGNATURES_MAX // 2:
            self._old, self._young = self._young, set()
        self._young.add(signed)
