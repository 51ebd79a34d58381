"""An invitation as text: what ``p2pnode invite`` prints, and ``p2pnode start --invite`` takes.

What it is: one line that a person can mail, with a version and a checksum, so that a torn or mistyped one is refused before it is used.
What it is not: the judge of an invitation; the chain decides what it is worth. Whoever has the line can become a member with it, once.

For editing: another layout is another prefix. Nothing here imports more than the standard library, because settings are read quickly.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

PREFIX = "p2pnode1-"
_BYTES = 32 + 32 + 8 + 32 + 64
_CHECKSUM_BYTES = 4
_TEXT = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Token:
    """``seed`` is the private half of the one-time key; ``signature`` is the inviter's, over its public half and the expiry."""

    network: bytes
    inviter: bytes
    expiry_height: int
    seed: bytes
    signature: bytes


def token_text(token: Token) -> str:
    """The line for the newcomer."""
    body = b"".join((token.network, token.inviter, token.expiry_height.to_bytes(8, "big"), token.seed, token.signature))
    return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")


def parse_token(text: str) -> Token:
    """The inverse, for any text. Raises ValueError saying what is wrong."""
    if not text.startswith(PREFIX):
        raise ValueError(f"it does not begin with {PREFIX}")
    encoded = text.removeprefix(PREFIX)
    if len(encoded) > 4 * (_BYTES + _CHECKSUM_BYTES) or not _TEXT.fullmatch(encoded):
        raise ValueError("it holds characters that no token has")
    try:
        data = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except binascii.Error:
        raise ValueError("a part of it is missing") from None
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if len(body) != _BYTES:
        raise ValueError("a part of it is missing" if len(body) < _BYTES else "it is too long")
    if checksum != _checksum(body):
        raise ValueError("a character of it is wrong")
    fields, start = [], 0
    for size in (32, 32, 8, 32, 64):
        fields.append(body[start : start + size])
        start += size
    network, inviter, expiry, seed, signature = fields
    return Token(network, inviter, int.from_bytes(expiry, "big"), seed, signature)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"p2pnode-invitation-v1\0" + body).digest()[:_CHECKSUM_BYTES]
