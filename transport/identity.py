"""A node's identity: one Ed25519 key, by PyNaCl alone.

PyNaCl and OpenSSL disagree on which Ed25519 signatures are valid, so no signature that nodes must
agree on is ever checked by another library. Not here: TLS keys, which live for one process (tls.py).
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NewType

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from transport.errors import UserError

PublicKey = NewType("PublicKey", bytes)
NodeId = NewType("NodeId", str)

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEED_BYTES = 32


class Identity:
    """The private half. Never printed, never logged, never sent."""

    __slots__ = ("_key", "node_id", "public_key")

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self.public_key = PublicKey(bytes(self._key.verify_key))
        self.node_id = node_id(self.public_key)

    def __repr__(self) -> str:
        return f"Identity({self.node_id})"

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature of 64 bytes over `message`, deterministic."""
        return self._key.sign(message).signature

    @classmethod
    def generate(cls) -> Identity:
        return cls(bytes(SigningKey.generate()))

    @classmethod
    def create(cls, path: Path) -> Identity:
        """A new key in a new file that only its owner can read. Raises UserError if the file exists."""
        identity = cls.generate()
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise UserError(f"the key file {path} exists already", "it is this node's identity; keep it") from None
        except OSError as error:
            raise UserError(f"cannot write the key file {path}: {error.strerror}") from None
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(bytes(identity._key).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        return identity

    @classmethod
    def load(cls, path: Path) -> Identity:
        """The key in `path`. Raises UserError if it is missing, damaged or readable by others."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                content = file.read(4 * SEED_BYTES)
        except FileNotFoundError:
            raise UserError(f"there is no key file {path}", "p2pnode init makes one") from None
        except OSError as error:
            raise UserError(f"cannot read the key file {path}: {error.strerror}") from None
        if stat.S_IMODE(status.st_mode) & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise UserError(f"others can read the key file {path} (mode {mode:04o})", f"chmod 600 {path}")
        try:
            seed = bytes.fromhex(content.decode("ascii").strip())
        except ValueError:
            seed = b""
        if len(seed) != SEED_BYTES:
            raise UserError(f"the key file {path} is damaged", "restore it from a backup: it is this node's identity")
        return cls(seed)


def node_id(public_key: bytes) -> NodeId:
    """40 hexadecimal digits: the first 20 bytes of SHA-256 over the public key."""
    return NodeId(hashlib.sha256(public_key).digest()[:20].hex())


def short_id(public_key: bytes) -> str:
    """The first ten digits of the node id, for logs."""
    return node_id(public_key)[:10]


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is the key's over `message`. Never raises; small-order keys verify nothing (libsodium)."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True
