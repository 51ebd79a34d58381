"""A node's identity: one Ed25519 key, by PyNaCl alone.

PyNaCl and OpenSSL disagree on which Ed25519 signatures are valid, so no signature that nodes must
agree on is ever checked by another library. Not here: TLS keys, which live for one process (tls.py).
"""

from __future__ import annotations

import errno
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
        identity.save(path)
        return identity

    def save(self, path: Path) -> None:
        """This key in a new file, on the disk when it returns. Raises UserError if the file exists."""
        try:
            write_secret(path, self.seed.hex().encode() + b"\n")
        except FileExistsError:
            raise UserError(f"the key file {path} exists already", "it is this node's identity; keep it") from None
        except OSError as error:
            raise UserError(f"cannot write the key file {path}: {error.strerror}") from None

    @property
    def seed(self) -> bytes:
        """The secret itself, 32 bytes: for a file that its owner alone can read, and for nothing else."""
        return bytes(self._key)

    @classmethod
    def load(cls, path: Path) -> Identity:
        """The key in `path`. Raises UserError if it is missing, damaged, or not its owner's alone."""
        try:
            content = read_secret(path, "key file", bytes_max=4 * SEED_BYTES)
        except FileNotFoundError:
            raise UserError(f"there is no key file {path}", "p2pnode init makes one") from None
        try:
            seed = bytes.fromhex(content.decode("ascii").strip())
        except ValueError:
            seed = b""
        if len(seed) != SEED_BYTES:
            raise UserError(f"the key file {path} is damaged", "restore it from a backup: it is this node's identity")
        return cls(seed)


def write_secret(path: Path, data: bytes) -> None:
    """A new file of these bytes that its owner alone can read, on the disk when it returns; half of one is none. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask made of it
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def read_secret(path: Path, what: str, *, bytes_max: int) -> bytes:
    """At most so many bytes of a file whose owner is this user, and who alone can read it; `what` is its name for the operator.

    Raises:
        UserError: it is somebody else's, others can read it, it is a link, or no file at all.
        FileNotFoundError: it is not there.
    """
    try:  # without waiting for whoever should write into it, were it a pipe
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"the {what} {path} is a symbolic link", "put the file itself there") from None
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from None
    try:
        status = os.fstat(handle)
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"the {what} {path} is no file", "put the file itself there")
        if status.st_uid != os.geteuid():
            hint = "run as its owner, or make it yours with chown"
            raise UserError(f"the {what} {path} belongs to user {status.st_uid}, not to you", hint)
        if mode & 0o077:
            raise UserError(f"others can read the {what} {path} (mode {mode:04o})", f"chmod 600 {path}")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(bytes_max)
    finally:
        os.close(handle)


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
