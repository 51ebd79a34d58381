"""Strangers from several addresses of one machine, one after the other; all stay until the last has come.

`python -m tests.transport.crowd HOST PORT SOURCE...` prints a word for each source: `in`, or the name of the BYE that it was told. Who comes
from `liar@SOURCE` is let in and then says something that proves a lie, until it is thrown out: `lied`.
"""

import sys

import trio

from tests.transport.net import Rogue, forged, introduction
from transport.establish import DialError, establish
from transport.identity import Identity
from transport.tls import tls_identity


async def main(host: str, port: str, *sources: str) -> None:
    async with trio.open_nursery() as nursery:
        for source in sources:
            _, is_liar, address = source.rpartition("liar@")
            identity = Identity.generate()
            tls = tls_identity(identity)
            tcp = await trio.open_tcp_stream(host, int(port), local_address=address)
            try:
                rogue = Rogue(await establish(tcp, introduction(identity, tls=tls), is_client=True), identity, tls)
            except DialError as error:
                assert error.told and error.bye is not None, error.reason
                sys.stdout.write(f"{error.bye.name.lower()}\n")
                continue
            if is_liar:
                await rogue.send(forged())
                await rogue.closed()
            else:
                nursery.start_soon(rogue.stay)
            sys.stdout.write("lied\n" if is_liar else "in\n")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
