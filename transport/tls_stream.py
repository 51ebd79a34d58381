"""TLS over a byte stream: what comes is decrypted straight into the frame decoder, what goes is encrypted in one piece.

`trio.SSLStream` takes one record at a time, with a turn of the loop for each and two tries at every read; three votes in four are one
record. This one reads until nothing is left, and takes no lock: a connection has one reader and one writer.
Not here: whom to trust (tls.py), and the goodbye, which is a frame (handshake.py). An end of the stream without TLS's own goodbye is an
end like any other: frames carry their lengths.

Rules for editing: after the handshake only `send_all` writes. What a read makes OpenSSL want to say (a key update) goes with the
next write.
"""

from __future__ import annotations

import ssl

import trio

from transport.framing import FrameDecoder
from transport.limits import READ_BYTES, RECORD_BYTES


class TlsStream(trio.abc.Stream):
    """One end. `tls` is OpenSSL's object, for what it knows of the other end. Errors are those of any trio stream."""

    def __init__(self, stream: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._is_ended = False
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)

    async def do_handshake(self) -> None:
        """Raises BrokenResourceError from what OpenSSL says, or from nothing where the other end went away."""
        is_done = False
        while not is_done:
            try:
                self.tls.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                raise trio.BrokenResourceError from error
            if data := self._outgoing.read():
                await self._stream.send_all(data)
            if not is_done and not await self._take():
                raise trio.BrokenResourceError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        unsent = memoryview(data)
        try:
            while unsent:
                unsent = unsent[self.tls.write(unsent) :]
        except ssl.SSLError as error:
            raise trio.BrokenResourceError from error
        await self._stream.send_all(self._outgoing.read())

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_into(self, decoder: FrameDecoder) -> int:
        """Feed what comes next, READ_BYTES at most; how much it was, 0 at the end."""
        while True:
            size = 0
            while size < READ_BYTES and (count := self._read(decoder.room())):
                decoder.put(count)
                size += count
            if size or self._is_ended or not await self._take():
                return size

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        room = memoryview(bytearray(RECORD_BYTES if max_bytes is None else max_bytes))
        while True:
            count = self._read(room)
            if count or self._is_ended or not await self._take():
                return bytes(room[:count])

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _take(self) -> bool:
        """Wait for encrypted bytes. False at the end."""
        data = await self._stream.receive_some(READ_BYTES)
        self._incoming.write(data)
        return bool(data)

    def _read(self, room: memoryview) -> int:
        """Of one record, as much as fits; 0 where none is complete."""
        if not self._incoming.pending and not self.tls.pending():
            return 0
        try:
            count: int = self.tls.read(min(len(room), RECORD_BYTES), room)  # type: ignore[assignment]
            return count
        except ssl.SSLWantReadError:
            return 0
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._is_ended = True
            return 0
        except ssl.SSLError as error:
            raise trio.BrokenResourceError from error
