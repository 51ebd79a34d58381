"""docs/wire-format.md against the code: caps, codes and constants that stand in both."""

import re
from pathlib import Path

import pytest

from transport import limits
from transport.content import digest_of
from transport.framing import APPLICATION_KIND_MIN, FRAME_BYTES_MAX, Kind
from transport.handshake import PROTOCOL_VERSION, Bye
from transport.tls import ALPN as PROTOCOL
from transport.tls import AUTHORITY_NAME, IDENTITY_OID, authority

TEXT = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text(encoding="utf-8")


def test_every_kind_stands_there_with_its_cap() -> None:
    rows = re.findall(r"\| 0x([0-9a-f]{2}) \| (\w+) \| ([0-9,]+) \|", TEXT)
    written = {int(code, 16): (name, int(cap.replace(",", ""))) for code, name, cap in rows}
    assert written == {int(kind): (kind.name, FRAME_BYTES_MAX[kind]) for kind in Kind}
    assert (
        f"| 0x{APPLICATION_KIND_MIN:02x} to 0xff | the application's | {limits.APPLICATION_FRAME_BYTES_MAX:,} |" in TEXT
    )


def test_every_code_of_bye_stands_there() -> None:
    line = " ".join(TEXT[TEXT.index("BYE codes:") :].split())
    assert all(f"{int(code)} {code.name.lower().replace('_', ' ')}" in line for code in Bye)


@pytest.mark.parametrize(
    "constant",
    [
        PROTOCOL,
        AUTHORITY_NAME,
        IDENTITY_OID.dotted_string,
        f"Protocol version **{PROTOCOL_VERSION}**",
        digest_of(b"").hex(),
        digest_of(b"abc").hex(),
        f"{limits.CERTIFICATE_BYTES_MAX:,} bytes",
        f"at most {limits.STATEMENT_BYTES_MAX}",
        f"at most {limits.BLOB_REQUESTS_QUEUED_MAX} may wait",
        f"At most {limits.REQUESTS_SERVED_MAX} requests",
        f"every {limits.PING_SECONDS:.0f} s",
        f"for {limits.DEAD_SECONDS:.0f} s is dead",
        f"for {limits.BAN_SECONDS:.0f} s",
        f"for {limits.IP_BAN_SECONDS:.0f} s strangers from the same IPv4 address",
        f"a node that has {limits.PEERS_MAX} peers is told BYE 5",
        f"if {limits.INBOUND_PER_IP_MAX} others have\ncome from its IPv4 address",
        f"or {limits.INBOUND_PER_GROUP_MAX} from its address group",
        f"Of {limits.HANDSHAKES_MAX} handshakes at a time at most {limits.HANDSHAKES_PER_IP_MAX} are of one such",
        f"an address group with more than {limits.HANDSHAKES_PER_GROUP_MAX} gives one up",
        f"{limits.FRAMES_PER_SECOND:,.0f} a second",
        f"burst of {limits.FRAMES_BURST:,.0f}",
        f"answers of {limits.ANSWER_BYTES_FREE_MIN:,} bytes and more",
        f"no members at {limits.STRANGERS_FRAMES_PER_SECOND:,.0f} a second",
    ],
)
def test_constants_stand_there(constant: str) -> None:
    assert constant in TEXT


def test_the_authority_that_it_names_is_ours() -> None:
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding

    assert hashlib.sha256(authority()[1].public_bytes(Encoding.DER)).hexdigest() in TEXT
