"""TLS 1.3 both ways under a *public* certificate authority, and the identity that a certificate carries.

The authority's private key is derived from the protocol's name: everybody has it, it proves NOTHING, and nothing here
relies on it. It exists because Python's ssl can demand a client certificate, and prove that the client holds its key,
only against an authority. What is trusted is the extension: the node's Ed25519 key signs the leaf's
public key, so whoever completes the handshake speaks for that node.

Rules for editing: CERT_REQUIRED and VERIFY_X509_STRICT stay on both sides; no fallback to an older TLS; a leaf key
lives as long as the process. Not here: HELLO, which binds the network and both leaf keys (handshake.py).
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import ssl
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from transport.errors import Malformed
from transport.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, PublicKey, verify
from transport.limits import CERTIFICATE_BYTES_MAX
from transport.machine import random_bytes

ALPN: Final = "p2pnode/1"
AUTHORITY_SEED: Final = hashlib.sha256(b"p2pnode-public-ca-v1").digest()
AUTHORITY_NAME: Final = "p2pnode public CA"
IDENTITY_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.59999.1.1")
IDENTITY_PREFIX: Final = b"p2pnode-tls-v1:"
_LEAF_YEARS: Final = 10
# Nobody writes to this node's terminal by way of a strange certificate: later versions of the parser refuse it.
warnings.filterwarnings("ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning)


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """What one process shows to its peers: both contexts, and the hash of its leaf's public key for HELLO."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    leaf_hash: bytes


@dataclass(frozen=True, slots=True)
class TlsPeer:
    """Whom a completed TLS handshake proved at the other end."""

    key: PublicKey
    leaf_hash: bytes


def tls_identity(identity: Identity) -> TlsIdentity:
    """A fresh leaf key, certified as the node's. Call once per process start (2 ms)."""
    leaf_key = Ed25519PrivateKey.from_private_bytes(random_bytes(32))
    certificate = leaf_certificate(identity, leaf_key)
    return TlsIdentity(
        server=make_context(certificate, leaf_key, server=True),
        client=make_context(certificate, leaf_key, server=False),
        leaf_hash=hashlib.sha256(_public_bytes(leaf_key.public_key())).digest(),
    )


def peer_of(tls: Any) -> TlsPeer:
    """The node at the other end of a handshaken `ssl.SSLObject`; raises Malformed.

    Exactly one leaf, of bounded size, with the identity extension over its own public key. OpenSSL sends the authority
    along, because it finds it in the store; nothing else may follow the leaf.
    """
    if tls.selected_alpn_protocol() != ALPN:
        raise Malformed(f"the other end does not speak {ALPN}")
    chain = _chain(tls)
    if not chain or chain[1:] not in ([], [_authority_der()]):
        raise Malformed(f"{len(chain)} certificates where one leaf belongs")
    return identify(chain[0])


def identify(certificate_der: bytes) -> TlsPeer:
    """The node that a leaf certificate, already verified by OpenSSL, speaks for; raises Malformed."""
    if len(certificate_der) > CERTIFICATE_BYTES_MAX:
        raise Malformed(f"a certificate of {len(certificate_der)} bytes")
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        leaf_public = _public_bytes(certificate.public_key())
        extension = certificate.extensions.get_extension_for_oid(IDENTITY_OID).value
    except x509.ExtensionNotFound:
        raise Malformed("a certificate without the identity extension") from None
    except Exception as error:  # a parser of another's bytes: whatever it raises, the certificate is bad
        raise Malformed(f"a certificate that does not parse ({type(error).__name__})") from None
    value = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    if len(value) != PUBLIC_KEY_BYTES + SIGNATURE_BYTES:
        raise Malformed(f"an identity extension of {len(value)} bytes")
    key, signature = value[:PUBLIC_KEY_BYTES], value[PUBLIC_KEY_BYTES:]
    if not verify(key, IDENTITY_PREFIX + leaf_public, signature):
        raise Malformed("an identity extension that was signed for another certificate")
    return TlsPeer(PublicKey(key), hashlib.sha256(leaf_public).digest())


@functools.cache
def authority() -> tuple[Ed25519PrivateKey, x509.Certificate]:
    """The public authority: the same key and, Ed25519 being deterministic, the same certificate everywhere."""
    key = Ed25519PrivateKey.from_private_bytes(AUTHORITY_SEED)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AUTHORITY_NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(certificate_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, None)
    )
    return key, certificate


def leaf_certificate(identity: Identity, leaf_key: Ed25519PrivateKey) -> x509.Certificate:
    """A leaf under the public authority that carries the node's signature over the leaf's key."""
    ca_key, ca_certificate = authority()
    leaf_public = leaf_key.public_key()
    value = identity.public_key + identity.sign(IDENTITY_PREFIX + _public_bytes(leaf_public))
    now = datetime.datetime.now(datetime.UTC)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.node_id)]))
        .issuer_name(ca_certificate.subject)
        .public_key(leaf_public)
        .serial_number(int.from_bytes(b"\x01" + random_bytes(15), "big"))
        # A day back for clocks that are slow; identity does not rest on expiry.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * _LEAF_YEARS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(certificate_sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(leaf_public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.UnrecognizedExtension(IDENTITY_OID, value), critical=False)
        .sign(ca_key, None)
    )


def make_context(certificate: x509.Certificate, leaf_key: Ed25519PrivateKey, *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 only, a certificate demanded from the other end, no names (identity is the extension)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=_authority_der())
    context.set_alpn_protocols([ALPN])
    if server:
        context.num_tickets = 0  # no resumption: every connection proves its key
    # ssl takes a certificate chain from a path only.
    handle, path = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(certificate.public_bytes(Encoding.PEM))
            file.write(leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        context.load_cert_chain(path)
    finally:
        Path(path).unlink()
    return context


@functools.cache
def _authority_der() -> bytes:
    return authority()[1].public_bytes(Encoding.DER)


def _chain(tls: Any) -> list[bytes]:
    """What the other end sent, as DER. Public only from Python 3.13 on; 3.11 and 3.12 have it one level down."""
    if hasattr(ssl.SSLObject, "get_unverified_chain"):
        return list(tls.get_unverified_chain())
    chain = tls._sslobj.get_unverified_chain() or ()
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain]


def _public_bytes(key: Any) -> bytes:
    public: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public


def _key_usage(*, certificate_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificate_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificate_sign,
        crl_sign=certificate_sign,
        encipher_only=False,
        decipher_only=False,
    )
