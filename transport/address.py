"""Where a node listens: host and port, their text form, and the scope that decides who may hear of it.

Not here: name resolution (swarm.py) and reachability. Signed records carry addresses as 16 bytes of IPv6 (IPv4 mapped)
and a port, never names: a name would let a stranger point our dialer into our own network.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from transport.errors import Malformed, UserError
from transport.limits import HOSTS_REMEMBERED_MAX

PACKED_BYTES: Final = 18


class Scope(enum.IntEnum):
    """How far an address is valid. Order matters: a wider scope has a higher value."""

    LOOPBACK = 0
    PRIVATE = 1
    GLOBAL = 2


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """`host:port`, `1.2.3.4:port` or `[::1]:port`; raises UserError."""
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise UserError(f"not an address: {text!r}", "write HOST:PORT, for example 192.0.2.7:7337 or [::1]:7337")
        return cls(host, int(port))

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as a number, or None where it is a name. Mapped IPv4 is IPv4."""
        return _number(self.host)

    @property
    def is_wildcard(self) -> bool:
        """Whether it means every interface, and so tells nobody where to dial."""
        return self.ip is not None and self.ip.is_unspecified

    @property
    def scope(self) -> Scope:
        return _scope(self.host)

    def pack(self) -> bytes:
        """16 bytes of IPv6 and the port; the host must be a number."""
        ip = self.ip
        if ip is None:
            raise UserError(f"{self.host} is a name, and a record needs a number")
        mapped = ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
        return mapped + struct.pack(">H", self.port)

    @classmethod
    def unpack(cls, data: bytes) -> Address:
        """The inverse of pack, strict: a host that can be dialed and a port that is not 0; raises Malformed."""
        if len(data) != PACKED_BYTES:
            raise Malformed("an address of the wrong width")
        packed = ipaddress.IPv6Address(data[:16])
        ip = packed.ipv4_mapped or packed
        (port,) = struct.unpack(">H", data[16:])
        if port == 0 or ip.is_unspecified or ip.is_multicast:
            raise Malformed(f"an address that cannot be dialed: {ip} port {port}")
        if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None:
            raise Malformed("an address with a zone")
        return cls(str(ip), port)


def may_hear(record_scope: Scope, peer_scope: Scope) -> bool:
    """Whether a peer connected from `peer_scope` may be told, or may tell us, an address of `record_scope`.

    Loopback goes to this machine only, private to the same site (a peer on this machine is on it too), global to all.
    """
    match record_scope:
        case Scope.GLOBAL:
            return True
        case Scope.PRIVATE:
            return peer_scope in (Scope.PRIVATE, Scope.LOOPBACK)
        case Scope.LOOPBACK:
            return peer_scope is Scope.LOOPBACK


# Peer exchange asks for the same few hundred hosts hundreds of thousands of times.


@functools.lru_cache(maxsize=HOSTS_REMEMBERED_MAX)
def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


@functools.lru_cache(maxsize=HOSTS_REMEMBERED_MAX)
def _scope(host: str) -> Scope:
    ip = _number(host)
    if ip is None:
        return Scope.LOOPBACK if host == "localhost" else Scope.GLOBAL
    if ip.is_loopback:
        return Scope.LOOPBACK
    return Scope.GLOBAL if ip.is_global else Scope.PRIVATE
