"""TLS over any byte stream: the same as everybody else's, whatever the pieces in which it arrives."""

import ssl

import pytest
import trio
import trio.testing

from transport.framing import FrameDecoder, Kind, encode_frame
from transport.identity import Identity
from transport.limits import LEAF_BYTES
from transport.tls import tls_identity
from transport.tls_stream import TlsStream

SERVER, CLIENT = tls_identity(Identity.generate()), tls_identity(Identity.generate())
LEAF = encode_frame(Kind.LEAF, bytes(8), bytes(range(256)) * (LEAF_BYTES // 256))


async def shaken(
    *, is_client: bool, says_goodbye: bool = False
) -> tuple[TlsStream, trio.SSLStream[trio.abc.Stream], trio.abc.Stream]:
    near, far = trio.testing.memory_stream_pair()
    ours = TlsStream(near, CLIENT.client if is_client else SERVER.server, server_side=not is_client)
    context = SERVER.server if is_client else CLIENT.client
    theirs = trio.SSLStream(far, context, server_side=is_client, https_compatible=not says_goodbye)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.do_handshake)
        nursery.start_soon(theirs.do_handshake)
    return ours, theirs, far


@pytest.mark.parametrize("is_client", [True, False])
async def test_it_talks_to_another_implementation(is_client: bool) -> None:
    ours, theirs, _ = await shaken(is_client=is_client)
    assert ours.tls.version() == "TLSv1.3"
    decoder, frames = FrameDecoder(), []

    async def send() -> None:
        await theirs.send_all(LEAF * 20 + encode_frame(Kind.PING, bytes(8)))
        await theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while await ours.receive_into(decoder):
            frames += list(decoder)
    assert [kind for kind, _ in frames] == [Kind.LEAF] * 20 + [Kind.PING]
    assert all(len(body) == 8 + LEAF_BYTES for _, body in frames[:20])

    received = bytearray()
    ours, theirs, _ = await shaken(is_client=is_client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, LEAF * 20)
        while len(received) < 20 * len(LEAF):
            received += await theirs.receive_some()
    assert bytes(received) == LEAF * 20


async def test_records_may_come_in_any_pieces() -> None:
    ours, theirs, far = await shaken(is_client=True)
    pieces: list[bytes] = []
    sent = bytes(range(256)) * 100
    await theirs.send_all(sent)
    encrypted = await ours._stream.receive_some(1 << 20)
    received = bytearray()

    async def drip() -> None:
        for at in range(0, len(encrypted), 1789):
            pieces.append(bytes(encrypted[at : at + 1789]))
            await far.send_all(pieces[-1])
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        while len(received) < len(sent):
            received += await ours.receive_some()
    assert bytes(received) == sent
    assert len(pieces) > 10


async def test_an_end_is_an_end_with_or_without_a_goodbye() -> None:
    for has_goodbye in (True, False):
        ours, theirs, _ = await shaken(is_client=False, says_goodbye=has_goodbye)
        await theirs.send_all(encode_frame(Kind.PING, bytes(8)))
        await theirs.aclose()
        decoder = FrameDecoder()
        assert await ours.receive_into(decoder) == 13
        assert list(decoder) == [(Kind.PING, bytes(8))]
        assert await ours.receive_into(decoder) == 0
        assert await ours.receive_some() == b""


async def test_a_changed_byte_breaks_it() -> None:
    ours, theirs, far = await shaken(is_client=True)
    await theirs.send_all(b"a vote")
    encrypted = await ours._stream.receive_some(1000)
    await far.send_all(encrypted[:-1] + bytes((encrypted[-1] ^ 1,)))
    with pytest.raises(trio.BrokenResourceError) as caught:
        await ours.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_a_handshake_with_nobody() -> None:
    near, far = trio.testing.memory_stream_pair()
    ours = TlsStream(near, CLIENT.client, server_side=False)
    await far.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await ours.do_handshake()


async def test_a_handshake_with_noise() -> None:
    near, far = trio.testing.memory_stream_pair()
    ours = TlsStream(near, SERVER.server, server_side=True)
    await far.send_all(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await ours.do_handshake()
    assert isinstance(caught.value.__cause__, ssl.SSLError)
