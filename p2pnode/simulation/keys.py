"""Signatures for the mass simulation: a keyed hash, a hundred times faster than Ed25519.

Whoever holds `signer(key)` can sign for that key and nobody else does; the scenarios give a traitor its own signers only. One table
for all scenarios of a process, so that what was signed before costs nothing again.
"""

import hashlib
from functools import lru_cache, partial

from consensus import PublicKey, Sign, Signature


@lru_cache(maxsize=65536)
def _mac(key: PublicKey, statement: bytes) -> Signature:
    return Signature(hashlib.blake2b(statement, key=key, digest_size=64).digest())


class KeyedSignatures:
    """`verify` is true for exactly what `signer(key)` gives, in whatever scenario."""

    def signer(self, key: PublicKey) -> Sign:
        return partial(_mac, key)

    def verify(self, key: PublicKey, statement: bytes, signature: Signature) -> bool:
        return _mac(key, statement) == signature


class IssuedSignatures(KeyedSignatures):
    """`verify` is true for exactly what was signed here: what another world issued is a forgery."""

    def __init__(self) -> None:
        self._issued: set[tuple[PublicKey, bytes]] = set()

    def signer(self, key: PublicKey) -> Sign:
        def sign(statement: bytes) -> Signature:
            self._issued.add((key, statement))
            return _mac(key, statement)

        return sign

    def verify(self, key: PublicKey, statement: bytes, signature: Signature) -> bool:
        return (key, statement) in self._issued and _mac(key, statement) == signature


@lru_cache(maxsize=4096)
def key(index: int) -> PublicKey:
    """The key of node `index`; keys ascend with the index, so n2 proposes view 0 of height 2 among four."""
    return PublicKey(index.to_bytes(1, "big") + hashlib.sha256(b"node %d" % index).digest()[1:])
