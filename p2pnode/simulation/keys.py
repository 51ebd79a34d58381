"""Signatures for the mass simulation: unforgeable because a table says who issued what, and a hundred times faster than Ed25519."""

import hashlib

from consensus import PublicKey, Signature


class IssuedSignatures:
    """`verify` is true for exactly what was signed here under that key."""

    def __init__(self) -> None:
        self._issued: set[tuple[PublicKey, bytes, Signature]] = set()

    def signer(self, key: PublicKey):
        def sign(statement: bytes) -> Signature:
            signature = Signature(hashlib.sha512(key + statement).digest())
            self._issued.add((key, statement, signature))
            return signature

        return sign

    def verify(self, key: PublicKey, statement: bytes, signature: Signature) -> bool:
        return (key, statement, signature) in self._issued


def key(index: int) -> PublicKey:
    """The key of node `index`; keys ascend with the index, so n2 proposes view 0 of height 2 among four."""
    return PublicKey(index.to_bytes(1, "big") + hashlib.sha256(b"node %d" % index).digest()[1:])
