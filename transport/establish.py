"""From a TCP stream to two ends that have accepted each other: TLS, certificate, HELLO, ACK, each with a deadline.

The only file that runs the handshakes; what is checked stands in tls.py and handshake.py. Whatever goes wrong comes
out as one DialError with a class and a reason, and the stream is closed.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, assert_never

import trio

from transport import limits
from transport.address import Address
from transport.connection import Shaken
from transport.dialing import DialFailure
from transport.errors import Malformed
from transport.events import Direction
from transport.framing import FrameDecoder
from transport.handshake import NOTHING_SUSPECTED, Bye, Handshake, Peer, Refused, encode_bye
from transport.identity import Identity, PublicKey, short_id
from transport.machine import random_bytes
from transport.peerbook import PeerRecord
from transport.statement import ChainId
from transport.tls import TlsIdentity, TlsPeer, peer_of
from transport.tls_stream import TlsStream


class DialError(Exception):
    """A connection that did not come about. `key` is who was there, where the certificate proved it.

    `bye` is the code of a refusal, and `told` says that the refusal was the other end's.
    """

    def __init__(
        self,
        name: str,
        failure: DialFailure,
        reason: str,
        *,
        bye: Bye | None = None,
        told: bool = False,
        key: PublicKey | None = None,
    ) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.failure = failure
        self.reason = reason
        self.bye = bye
        self.told = told
        self.key = key


class Admit(Protocol):
    async def __call__(self, peer: TlsPeer, *, is_client: bool) -> tuple[Bye, str] | None:
        """Why not to go on with a peer whose certificate proved its key; None to go on."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What this end says of itself, and what it asks of the other."""

    identity: Identity
    tls: TlsIdentity
    chain_id: ChainId | None
    record: PeerRecord | None
    remote: Address
    local: Address
    expected: PublicKey | None
    admit: Admit
    suspected: Callable[[PublicKey], bytes] = lambda _: NOTHING_SUSPECTED
    is_probe: bool = False


async def establish(tcp: trio.abc.Stream, intro: Introduction, *, is_client: bool) -> Shaken:
    """Raises DialError, having closed the stream; cancelled, it closes it too."""
    context = intro.tls.client if is_client else intro.tls.server
    stream = TlsStream(tcp, context, server_side=not is_client)
    try:
        remote = await _tls(stream, intro)
        with _deadline(f"{short_id(remote.key)}@{intro.remote}", limits.HELLO_SECONDS_MAX, "HELLO", key=remote.key):
            return await _hello(stream, remote, intro, is_client=is_client)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def _tls(stream: TlsStream, intro: Introduction) -> TlsPeer:
    name = str(intro.remote)
    try:
        with _deadline(name, limits.TLS_SECONDS_MAX, "TLS"):
            await stream.do_handshake()
    except trio.BrokenResourceError as error:
        raise DialError(name, *_tls_failure(error.__cause__)) from None
    try:
        remote = peer_of(stream.tls)
    except Malformed as error:
        raise DialError(name, DialFailure.BAD_CERTIFICATE, str(error)) from None
    is_own = remote.key == intro.identity.public_key and not intro.is_probe  # then `admit` says what that means
    if intro.expected is not None and remote.key != intro.expected and not is_own:
        reason = f"{short_id(remote.key)} answers there, not {short_id(intro.expected)}"
        raise DialError(name, DialFailure.BAD_CERTIFICATE, reason, key=remote.key)
    return remote


async def _hello(stream: TlsStream, remote: TlsPeer, intro: Introduction, *, is_client: bool) -> Shaken:
    name = f"{short_id(remote.key)}@{intro.remote}"
    decoder = FrameDecoder()
    try:
        if (refusal := await intro.admit(remote, is_client=is_client)) is not None:
            raise Refused(*refusal)
        suspected = intro.suspected(remote.key)
        handshake = Handshake(
            identity=intro.identity,
            leaf_hash=intro.tls.leaf_hash,
            remote=remote,
            is_client=is_client,
            chain_id=intro.chain_id,
            record=intro.record,
            nonce=random_bytes(32),
            suspected=suspected,
            seen=intro.remote,
            is_probe=intro.is_probe,
        )
        said = await _converse(stream, handshake, decoder)
    except Refused as refused:
        if not refused.told:
            await _say_bye(stream, refused)
        raise DialError(
            name, _failure(refused.code), refused.reason, bye=refused.code, told=refused.told, key=remote.key
        ) from None
    except Malformed as error:
        raise DialError(name, DialFailure.CLOSED, str(error), key=remote.key) from None
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        reason = "it closed the connection during HELLO: it may not accept this node's certificate"
        raise DialError(name, DialFailure.CLOSED, reason, key=remote.key) from None
    direction: Direction = "outbound" if is_client else "inbound"
    return Shaken(
        stream=stream,
        decoder=decoder,
        key=remote.key,
        leaf_hash=remote.leaf_hash,
        said=said,
        remote=intro.remote,
        local=intro.local,
        direction=direction,
        id=handshake.id,
        suspected=suspected,
    )


async def _converse(stream: TlsStream, handshake: Handshake, decoder: FrameDecoder) -> Peer:
    await stream.send_all(handshake.start())
    while True:
        while (frame := decoder.next()) is not None:
            if answer := handshake.receive(*frame):
                await stream.send_all(answer)
            if handshake.peer is not None:
                return handshake.peer  # what follows in the decoder belongs to the connection
        data = await stream.receive_some(limits.HELLO_BYTES_MAX)
        if not data:
            raise trio.BrokenResourceError
        decoder.feed(data)


async def _say_bye(stream: TlsStream, refused: Refused) -> None:
    """A courtesy, within the deadline of HELLO; the other end may be gone."""
    try:
        await stream.send_all(encode_bye(refused.code, refused.reason))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@contextlib.contextmanager
def _deadline(name: str, seconds: float, step: str, *, key: PublicKey | None = None) -> Iterator[None]:
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise DialError(name, DialFailure.TIMED_OUT, f"no {step} within {seconds:g} s", key=key) from None


def _failure(code: Bye) -> DialFailure:
    """The class of a refusal, by the code that we gave or were given."""
    match code:
        case Bye.MYSELF:
            return DialFailure.MYSELF
        case Bye.WRONG_NETWORK:
            return DialFailure.WRONG_NETWORK
        case Bye.INCOMPATIBLE_VERSION:
            return DialFailure.INCOMPATIBLE_VERSION
        case Bye.FULL:
            return DialFailure.FULL
        case Bye.TIMED_OUT:
            return DialFailure.TIMED_OUT
        case Bye.TWIN:
            return DialFailure.TWIN
        case Bye.LEAVING | Bye.DUPLICATE | Bye.BANNED | Bye.PROTOCOL:
            return DialFailure.CLOSED
        case _:
            assert_never(code)


def _tls_failure(cause: BaseException | None) -> tuple[DialFailure, str]:
    match cause:
        case ssl.SSLCertVerificationError():
            return DialFailure.BAD_CERTIFICATE, f"its certificate is refused: {cause.verify_message}"
        case ssl.SSLEOFError() | None:
            return DialFailure.CLOSED, "it closed the connection during TLS"
        case ssl.SSLError(reason="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            return DialFailure.BAD_CERTIFICATE, "it shows no certificate"
        case ssl.SSLError():
            what = (cause.reason or "unknown").lower().replace("_", " ")
            return DialFailure.BAD_CERTIFICATE, f"no TLS 1.3 with it: {what}"
        case _:
            return DialFailure.CLOSED, "it closed the connection during TLS"
