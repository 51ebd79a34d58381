"""The chain file, read as one moment's view: its pages, its structure, and every row against its own digest.

Where the node that wrote it has closed it, the digests of all its pages stand beside it (``Store.close``), and no bit of it is out of
sight. Where it runs, or was killed, they are not there: then every row is checked, and what SQLite keeps beside rows is only as far as it
means anything (``integrity_check``). Of its log, which such a file has beside it, every frame is checked.
"""

import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import consensus
import transport
from p2pnode.errors import SetUpError
from p2pnode.home import Home
from p2pnode.pagesums import damaged_pages, sums_of
from p2pnode.store import SCHEMA_VERSION, row_digest
from p2pnode.verify.chain import Row, VerifiedChain
from p2pnode.verify.report import Report

ROWS_PER_READ = 256
_WAL_HEAD, _FRAME_HEAD = 32, 24


class Database:
    """A context: one read transaction from entry to exit. ``readable`` is False once SQLite itself finds no way through."""

    def __init__(self, home: Home, report: Report) -> None:
        self.file = home.chain.name
        self.readable = True
        self._path = home.chain
        self._running = home.running_pid() is not None
        self.report = report

    def __enter__(self) -> "Database":
        self._check_pages()
        if not self._running:
            self._check_log(self._path.with_name(self.file + "-wal"))
        # A file that is closed is opened as one that nobody changes: SQLite then leaves no files of its own beside it.
        closed = not self._running and not self._path.with_name(self.file + "-wal").exists()
        how = "immutable=1" if closed else "mode=ro"
        try:
            self._db = sqlite3.connect(f"{self._path.absolute().as_uri()}?{how}", uri=True, isolation_level=None)
        except sqlite3.Error as problem:
            raise SetUpError(f"{self._path}: {problem}", "check who owns it and its mode") from None
        self._ask("BEGIN")
        version = next(iter(self._ask("PRAGMA user_version")), (0,))[0]
        if self.readable and version != SCHEMA_VERSION:
            if not self.report.faults:
                self._db.close()
                later = version > SCHEMA_VERSION
                raise SetUpError(
                    f"{self._path}: version {version} of the chain file, this program reads {SCHEMA_VERSION}",
                    "update p2pnode" if later else "start the node once with the version that wrote it",
                )
            self.readable = False
        if self.readable:
            for (answer,) in self._ask("PRAGMA integrity_check(1)"):
                if answer != "ok":
                    self.report.fault(self.file, f"SQLite: {answer}")
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def chain_id(self) -> bytes | None:
        return self.note("chain_id")

    def note(self, name: str) -> bytes | None:
        rows = self._ask("SELECT value FROM notes WHERE name = ?", name)
        value = rows[0][0] if rows else None
        return value if isinstance(value, bytes) else None

    def height(self) -> int:
        """The highest that is stored, whether it holds or not."""
        rows = self._ask("SELECT MAX(height) FROM blocks")
        return int(rows[0][0] or 0) if rows else 0

    def rows(self) -> Iterator[Row]:
        """Every height, checked against its own digest."""
        first = 0
        while True:
            found = self._ask("SELECT * FROM blocks WHERE height > ? ORDER BY height LIMIT ?", first, ROWS_PER_READ)
            for height, digest, block, certificate, round_, seal in found:
                if not (isinstance(block, bytes) and isinstance(certificate, bytes)):
                    self.report.fault(self.file, "it is no bytes", height=height, field="block or certificate")
                    return
                yield Row(height, block, certificate)
                if row_digest(height, digest, block, certificate, round_) != seal:
                    self.report.fault(
                        self.file, "changed since it was written", height=height, field="hash, round or digest"
                    )
                first = height
            if not found:
                return

    def row(self, height: int) -> tuple[bytes, bytes] | None:
        rows = self._ask("SELECT block, certificate FROM blocks WHERE height = ?", height)
        return rows[0] if rows else None

    def check_rest(self, chain: VerifiedChain) -> None:
        """Evidence and notes, and the index of blocks by hash."""
        for node, kind, height, view, data, seal in self._ask("SELECT * FROM evidence"):
            what = f"evidence against {node.hex()[:10] if isinstance(node, bytes) else node}"
            if row_digest(node, kind, height, view, data) != seal:
                self.report.fault(self.file, "changed since it was written", height=height, field=what)
                continue
            try:
                evidence = consensus.Evidence.decode(data)
            except ValueError as problem:
                self.report.fault(self.file, str(problem), height=height, field=what)
                continue
            problem_found = consensus.check_evidence(evidence, chain_id=chain.state.chain_id, verify=transport.verify)
            if problem_found is not None:
                self.report.fault(self.file, problem_found, height=height, field=what)
        for name, value, seal in self._ask("SELECT * FROM notes"):
            if row_digest(name, value) != seal:
                self.report.fault(self.file, "changed since it was written", field=f"note {name}")

    def _ask(self, question: str, *values: object) -> list[Any]:
        if not self.readable:
            return []
        try:
            return self._db.execute(question, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as problem:
            self.readable = False
            self.report.fault(self.file, f"SQLite cannot read it: {problem}")
            return []

    def _check_pages(self) -> None:
        path = sums_of(self._path)
        if self._running or not path.exists():
            why = "its node is running" if self._running else "its node did not close it"
            self.report.note(f"{self.file}: {why}, so only rows and structure are checked, not unused space")
            return
        for byte, what in damaged_pages(self._path):
            self.report.fault(path.name if byte is None else self.file, what, byte=byte)

    def _check_log(self, path: Path) -> None:
        """Frames of the current round of SQLite's log: SQLite itself ends silently at the first that does not hold."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        if len(content) < _WAL_HEAD:
            if content:
                self.report.fault(path.name, "it is cut short", byte=0)
            return
        magic, _, page_bytes = struct.unpack_from(">III", content)
        order = ">" if magic & 1 else "<"
        salts, sums = content[16:24], struct.unpack_from(">II", content, 24)
        if magic & ~1 != 0x377F0682 or sums != _checksum(content[:24], (0, 0), order) or not page_bytes:
            self.report.fault(path.name, "its first 32 bytes are damaged", byte=0)
            return
        for at in range(_WAL_HEAD, len(content) - _FRAME_HEAD - page_bytes + 1, _FRAME_HEAD + page_bytes):
            head = content[at : at + _FRAME_HEAD]
            stored = struct.unpack_from(">II", head, 16)
            page = content[at + _FRAME_HEAD : at + _FRAME_HEAD + page_bytes]
            computed = _checksum(page, _checksum(head[:8], sums, order), order)
            if head[8:16] != salts and computed != stored:
                return  # of an earlier round
            if head[8:16] != salts or computed != stored:
                self.report.fault(path.name, "a page of the log is damaged", byte=at)
                return
            sums = stored


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """SQLite's, over pairs of 32-bit words."""
    one, two = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
