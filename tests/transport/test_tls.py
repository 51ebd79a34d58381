"""What TLS and the certificate must refuse: every row of the list in docs/wire-format.md, over real sockets.

A client of each wrong kind dials a real node. The node must refuse it with one line, and go on.
"""

import datetime
import hashlib
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.transport.net import CHAIN, Network, introduction
from transport import limits
from transport.dialing import DialFailure
from transport.errors import Malformed
from transport.establish import DialError, establish
from transport.events import BootstrapFailed
from transport.identity import Identity
from transport.tls import (
    ALPN,
    IDENTITY_OID,
    IDENTITY_PREFIX,
    TlsIdentity,
    authority,
    identify,
    leaf_certificate,
    make_context,
    tls_identity,
)

Key = Ed25519PrivateKey
EVE = Identity.generate()
UTC = datetime.UTC


def public(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate(
    key: Key,
    *,
    issuer: tuple[Key, x509.Name] | None = None,
    extension: bytes | None,
    days: tuple[int, int] = (-1, 10),
    more: list[tuple[x509.ExtensionType, bool]] | None = None,
) -> x509.Certificate:
    """A leaf that is right in everything but what a test changes."""
    ca_key, ca = authority()
    sign_key, name = issuer or (ca_key, ca.subject)
    now = datetime.datetime.now(UTC)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eve")]))
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(sign_key.public_key()), critical=False)
    )
    for value, critical in more or []:
        builder = builder.add_extension(value, critical=critical)
    if extension is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(IDENTITY_OID, extension), critical=False)
    return builder.sign(sign_key, None)


def extension_for(identity: Identity, key: Key) -> bytes:
    return identity.public_key + identity.sign(IDENTITY_PREFIX + public(key))


def client_context(cert: x509.Certificate | None, key: Key, *chain: x509.Certificate) -> ssl.SSLContext:
    """Like a node's, with any chain."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    if cert is not None:
        pem = b"".join(c.public_bytes(Encoding.PEM) for c in (cert, *chain))
        pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "chain.pem")
            path.write_bytes(pem)
            context.load_cert_chain(path)
    return context


def no_certificate() -> ssl.SSLContext:
    return client_context(None, Key.generate())


def self_signed() -> ssl.SSLContext:
    key = Key.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eve")])
    return client_context(certificate(key, issuer=(key, name), extension=extension_for(EVE, key)), key)


def other_authority() -> ssl.SSLContext:
    key, ca_key = Key.generate(), Key.generate()
    issuer = (ca_key, authority()[1].subject)
    return client_context(certificate(key, issuer=issuer, extension=extension_for(EVE, key)), key)


def stolen_extension() -> ssl.SSLContext:
    """A victim's extension, which anybody who met the victim has, on a leaf of one's own."""
    victim, victims_key, key = Identity.generate(), Key.generate(), Key.generate()
    return client_context(certificate(key, extension=extension_for(victim, victims_key)), key)


def stolen_certificate() -> ssl.SSLContext:
    """A victim's whole certificate cannot be shown without its key: OpenSSL does not even load the pair."""
    key = Key.generate()
    return client_context(certificate(Key.generate(), extension=extension_for(EVE, key)), key)


def missing_extension() -> ssl.SSLContext:
    key = Key.generate()
    return client_context(certificate(key, extension=None), key)


def short_extension() -> ssl.SSLContext:
    key = Key.generate()
    return client_context(certificate(key, extension=extension_for(EVE, key)[:-1]), key)


def small_order_key() -> ssl.SSLContext:
    key = Key.generate()
    return client_context(certificate(key, extension=b"\x01" + bytes(31) + b"\x01" + bytes(63)), key)


def expired() -> ssl.SSLContext:
    key = Key.generate()
    return client_context(certificate(key, extension=extension_for(EVE, key), days=(-10, -1)), key)


def not_yet_valid() -> ssl.SSLContext:
    key = Key.generate()
    return client_context(certificate(key, extension=extension_for(EVE, key), days=(5, 10)), key)


def two_certificates() -> ssl.SSLContext:
    key, other = Key.generate(), Key.generate()
    second = certificate(other, extension=extension_for(Identity.generate(), other))
    return client_context(certificate(key, extension=extension_for(EVE, key)), key, second)


def critical_unknown_extension() -> ssl.SSLContext:
    key = Key.generate()
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.59999.9.9"), b"\x05\x00")
    return client_context(certificate(key, extension=extension_for(EVE, key), more=[(unknown, True)]), key)


def huge_certificate() -> ssl.SSLContext:
    key = Key.generate()
    padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.59999.9.9"), bytes(5000))
    return client_context(certificate(key, extension=extension_for(EVE, key), more=[(padding, False)]), key)


def older_tls() -> ssl.SSLContext:
    key = Key.generate()
    context = client_context(certificate(key, extension=extension_for(EVE, key)), key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def other_protocol() -> ssl.SSLContext:
    key = Key.generate()
    context = client_context(certificate(key, extension=extension_for(EVE, key)), key)
    context.set_alpn_protocols(["h2"])
    return context


WRONG: list[tuple[Callable[[], ssl.SSLContext], str]] = [
    (no_certificate, "shows no certificate"),
    (self_signed, "certificate is refused"),
    (other_authority, "certificate is refused"),
    (stolen_extension, "signed for another certificate"),
    (missing_extension, "without the identity extension"),
    (short_extension, "identity extension of 95 bytes"),
    (small_order_key, "signed for another certificate"),
    (expired, "expired"),
    (not_yet_valid, "not yet valid"),
    (two_certificates, "certificates where one leaf belongs"),
    (critical_unknown_extension, "certificate is refused"),
    (huge_certificate, "a certificate of 5"),
    (older_tls, "no TLS 1.3"),
    (other_protocol, "does not speak p2pnode/1"),
]


@pytest.mark.parametrize(("make", "reason"), WRONG, ids=[make.__name__ for make, _ in WRONG])
async def test_a_client_that_must_be_refused(net: Network, make: Callable[[], ssl.SSLContext], reason: str) -> None:
    node = await net.node()
    tcp = await trio.open_tcp_stream("127.0.0.1", node.address.port)
    stream = trio.SSLStream(tcp, make(), https_compatible=True)
    try:
        await stream.do_handshake()
        while await stream.receive_some(1000):
            pass
    except trio.BrokenResourceError:
        pass
    await trio.aclose_forcefully(stream)
    await net.until(lambda: len(node.log.named("peer refused")) == 1)
    assert reason in node.log.reasons()[0]
    assert node.swarm.peers() == []
    await still_works(net, node)


async def still_works(net: Network, node: object) -> None:
    friend = await net.node(node)
    await net.until(lambda: friend.knows(node))


def test_a_stolen_certificate_needs_its_key() -> None:
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        stolen_certificate()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", bytes(300), b"\x16\x03\x01\x02\x00" + b"\xff" * 512])
async def test_garbage_in_place_of_tls(net: Network, data: bytes) -> None:
    node = await net.node()
    tcp = await trio.open_tcp_stream("127.0.0.1", node.address.port)
    await tcp.send_all(data)
    await net.until(lambda: len(node.log.named("peer refused")) == 1)
    assert "no TLS 1.3" in node.log.reasons()[0]
    await tcp.aclose()
    await still_works(net, node)


async def test_a_connection_that_goes_at_once(net: Network) -> None:
    node = await net.node()
    for _ in range(5):
        tcp = await trio.open_tcp_stream("127.0.0.1", node.address.port)
        await trio.aclose_forcefully(tcp)
    await still_works(net, node)


async def test_a_half_closed_connection_is_refused(net: Network) -> None:
    node = await net.node()
    tcp = await trio.open_tcp_stream("127.0.0.1", node.address.port)
    await tcp.send_eof()
    await net.until(lambda: len(node.log.named("peer refused")) == 1)
    assert "closed the connection during TLS" in node.log.reasons()[0]
    await tcp.aclose()


# --- The same from the dialer's side, and by the clock --------------------------------------------------------------


async def shake(
    server: tuple[TlsIdentity, Identity], client: tuple[TlsIdentity, Identity], **options: object
) -> list[BaseException | None]:
    """Both ends over memory; what each ended with."""
    left, right = trio.testing.memory_stream_pair()
    ends: list[BaseException | None] = [None, None]

    async def one(index: int, stream: trio.abc.Stream, who: tuple[TlsIdentity, Identity]) -> None:
        try:
            is_client = index == 1
            intro = introduction(who[1], tls=who[0], **(options if is_client else {}))  # type: ignore[arg-type]
            await establish(stream, intro, is_client=is_client)
        except DialError as error:
            ends[index] = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, 0, left, server)
        nursery.start_soon(one, 1, right, client)
    return ends


async def test_two_nodes_shake_hands_over_memory(autojump_clock: trio.testing.MockClock) -> None:
    alice, bob = Identity.generate(), Identity.generate()
    assert await shake((tls_identity(alice), alice), (tls_identity(bob), bob)) == [None, None]


async def test_another_node_than_the_dialed_one_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    alice, bob = Identity.generate(), Identity.generate()
    _, error = await shake((tls_identity(alice), alice), (tls_identity(bob), bob), expected=EVE.public_key)
    assert isinstance(error, DialError)
    assert error.failure is DialFailure.BAD_CERTIFICATE
    assert error.key == alice.public_key


async def test_a_server_with_a_wrong_certificate_is_refused_by_the_dialer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    alice, bob, key = Identity.generate(), Identity.generate(), Key.generate()
    wrong = certificate(key, extension=extension_for(alice, Key.generate()))
    context = make_context(wrong, key, server=True)
    _, error = await shake((TlsIdentity(context, context, bytes(32)), alice), (tls_identity(bob), bob))
    assert isinstance(error, DialError)
    assert error.failure is DialFailure.BAD_CERTIFICATE
    assert "signed for another certificate" in error.reason


@pytest.mark.parametrize("is_client", [False, True])
async def test_silence_is_ended_by_the_clock(autojump_clock: trio.testing.MockClock, is_client: bool) -> None:
    near, far = trio.testing.memory_stream_pair()
    with pytest.raises(DialError) as caught:
        await establish(near, introduction(EVE), is_client=is_client)
    assert caught.value.failure is DialFailure.TIMED_OUT
    assert trio.current_time() == pytest.approx(limits.TLS_SECONDS_MAX)
    await far.aclose()


async def test_a_slow_loris_in_tls_is_ended_by_the_clock(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()

    async def drip() -> None:
        for _ in range(100):
            try:
                await far.send_all(b"\x16")
            except trio.BrokenResourceError:
                return
            await trio.sleep(1.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(DialError):
            await establish(near, introduction(EVE), is_client=False)
        assert trio.current_time() <= limits.TLS_SECONDS_MAX + 1e-6
        nursery.cancel_scope.cancel()


async def test_a_slow_loris_in_hello_is_ended_by_the_clock(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    bob = Identity.generate()

    async def only_tls() -> None:
        stream = trio.SSLStream(far, tls_identity(bob).client, https_compatible=True)
        await stream.do_handshake()
        await stream.send_all(b"\x01\x00\x00")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(only_tls)
        with pytest.raises(DialError, match="no HELLO within 5 s") as caught:
            await establish(near, introduction(EVE), is_client=False)
        assert caught.value.key == bob.public_key
        assert trio.current_time() == pytest.approx(limits.HELLO_SECONDS_MAX)
        nursery.cancel_scope.cancel()


async def test_a_bootstrap_that_is_no_node_is_reported_as_such(net: Network) -> None:
    async def talk_http(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    from transport.address import Address

    listeners = await net.nursery.start(trio.serve_tcp, talk_http, 0)
    node = await net.node(Address("127.0.0.1", listeners[0].socket.getsockname()[1]))
    await net.until(lambda: bool(node.of(BootstrapFailed)))
    assert node.of(BootstrapFailed)[0].failure is DialFailure.BAD_CERTIFICATE


# --- Certificates as values -----------------------------------------------------------------------------------------


def test_a_leaf_says_who_it_is_and_is_small() -> None:
    key = Key.generate()
    der = leaf_certificate(EVE, key).public_bytes(Encoding.DER)
    assert identify(der).key == EVE.public_key
    assert len(der) < 700


def test_the_authority_is_the_same_everywhere() -> None:
    """Pinned: a change here is another network, and docs/wire-format.md must say so."""
    der = authority.__wrapped__()[1].public_bytes(Encoding.DER)
    assert hashlib.sha256(der).hexdigest() == "5f3f0a9256ff2aef031cf33edfc946ec9ea9355acdea9437f20c744186d8a202"


def test_every_start_has_a_leaf_key_of_its_own() -> None:
    assert tls_identity(EVE).leaf_hash != tls_identity(EVE).leaf_hash


def test_both_contexts_demand_tls_1_3_and_a_certificate() -> None:
    tls = tls_identity(EVE)
    for context in (tls.server, tls.client):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.verify_flags & ssl.VERIFY_X509_STRICT
    assert tls.server.num_tickets == 0


@pytest.mark.parametrize("data", [b"", b"\x30\x03\x02\x01\x01", bytes(600), b"x" * 5000])
def test_bytes_that_are_no_certificate(data: bytes) -> None:
    with pytest.raises(Malformed):
        identify(data)


def test_a_strange_serial_number_is_not_for_the_terminal() -> None:
    """Nothing rests on it, but the parser warns of it: a stranger's bytes, on our standard error."""
    der = bytearray(leaf_certificate(EVE, Key.generate()).public_bytes(Encoding.DER))
    der[der.index(b"\x02\x10\x01") + 2] |= 0x80
    program = f"from transport.tls import identify; print(identify(bytes.fromhex({der.hex()!r})).key.hex())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (EVE.public_key.hex(), "")


def test_the_chain_id_is_not_in_the_certificate() -> None:
    assert CHAIN not in leaf_certificate(EVE, Key.generate()).public_bytes(Encoding.DER)
