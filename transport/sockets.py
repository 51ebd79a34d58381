"""TCP: listening, connecting, and what sockets say of their ends, with errors in the operator's words.

Nothing here knows TLS or peers.
"""

from __future__ import annotations

import errno
import socket

import trio

from transport import limits
from transport.address import Address
from transport.dialing import DialFailure
from transport.errors import UserError
from transport.establish import DialError
from transport.machine import MACHINE
from transport.tcp import TcpListener, TcpStream

Socket = socket.socket | trio.socket.SocketType


async def listen(wanted: Address, *, fallback: bool) -> list[TcpListener]:
    """Listeners at that address; with `fallback`, at the next free port if it is taken. Raises UserError."""
    tries = limits.PORTS_TRIED_MAX if fallback and wanted.port else 0
    for port in range(wanted.port, min(wanted.port + tries, 65535) + 1):
        try:
            return await MACHINE.get().listen(wanted.host, port)
        except OSError as error:
            is_taken = errno.EADDRINUSE in (error.errno, getattr(error.__cause__, "errno", None))
            if is_taken and port < wanted.port + tries:
                continue
            what = "the port is taken" if is_taken else error.strerror or str(error)
            hint = "choose another with --listen HOST:PORT" if is_taken else "--listen takes an address of this machine"
            raise UserError(f"cannot listen on {wanted.host} port {port}: {what}", hint) from None
    raise UserError(f"cannot listen on {wanted}: no port is free", "choose another with --listen HOST:PORT")


async def connect(address: Address) -> tuple[TcpStream, Address]:
    """The stream and where it really ends, a number for a name. Raises DialError with the class of what went wrong."""
    name = str(address)
    try:
        with trio.fail_after(limits.CONNECT_SECONDS_MAX):
            tcp = await MACHINE.get().connect(address.host, address.port)
    except trio.TooSlowError:
        raise DialError(name, DialFailure.TIMED_OUT, "no answer") from None
    except OSError as error:
        raise DialError(name, *_why(error)) from None
    except ValueError:  # a name that IDNA cannot encode, for one
        raise DialError(name, DialFailure.UNREACHABLE, "not a name that can be looked up") from None
    remote = peer_of(tcp.socket)
    if remote is None:
        await trio.aclose_forcefully(tcp)
        raise DialError(name, DialFailure.CLOSED, "it closed the connection at once")
    return tcp, remote


async def look_up(address: Address) -> Address:
    """The same with a number for a host, where it is a name. Raises DialError."""
    try:
        with trio.fail_after(limits.CONNECT_SECONDS_MAX):
            return Address(await MACHINE.get().look_up(address.host), address.port)
    except trio.TooSlowError:
        raise DialError(str(address), DialFailure.TIMED_OUT, "no answer to its name") from None
    except (OSError, ValueError):
        raise DialError(str(address), DialFailure.UNREACHABLE, "the name is not known") from None


def name_of(its: Socket) -> Address:
    """This end of a socket."""
    return _address(its.getsockname())


def peer_of(its: Socket) -> Address | None:
    """The other end, or None where it has gone already."""
    try:
        return _address(its.getpeername())
    except OSError:
        return None


def _address(name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """Mapped IPv4 is IPv4; zones are dropped."""
    address = Address(name[0].partition("%")[0], name[1])
    ip = address.ip
    return address if ip is None else Address(str(ip), address.port)


def _why(error: OSError) -> tuple[DialFailure, str]:
    """trio raises one OSError for all addresses of a name, with the causes below it."""
    if isinstance(error, socket.gaierror):
        return DialFailure.UNREACHABLE, "the name is not known"
    cause = error.__cause__
    causes = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (error, cause)
    codes = {getattr(each, "errno", None) for each in causes}
    if errno.ECONNREFUSED in codes:
        return DialFailure.REFUSED, "nobody listens there"
    if errno.ETIMEDOUT in codes:
        return DialFailure.TIMED_OUT, "no answer"
    return DialFailure.UNREACHABLE, error.strerror or str(error)
