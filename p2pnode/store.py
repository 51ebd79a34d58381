"""The chain on disk: blocks with their certificates, evidence, and small things worth keeping, in one SQLite file.

What it is: durable facts that were agreed on, plus this node's own timings of them. What it is not: the vote log (``wal.py``), which
holds what this node signed before anything was agreed, nor payloads and snapshots (``blobs.py``).

Every row ends in a digest of the rest, so that ``p2pnode verify`` finds a changed bit in what no signature covers, too. SQLite checks
structure, not content, and what stands in unused space is no content.

Rules for editing: writes are called off the event loop; they return when they are on disk (``synchronous=FULL``), but for timings and
for blocks written with ``durable=False``, which any later durable write makes so. Reads have a connection of their own and never wait
for a write; the short ones may run on the loop.
"""

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import consensus
from p2pnode.errors import SetUpError
from p2pnode.pagesums import drop_sums, keep_sums

SCHEMA_VERSION = 2
ROUNDS_PER_READ = 250  # so that a short question from the loop never waits behind a long one
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS blocks (
    height INTEGER PRIMARY KEY, hash BLOB NOT NULL, block BLOB NOT NULL, certificate BLOB NOT NULL, round TEXT NOT NULL,
    digest BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS blocks_by_hash ON blocks (hash);
CREATE TABLE IF NOT EXISTS evidence (
    node BLOB NOT NULL, kind TEXT NOT NULL, height INTEGER NOT NULL, view INTEGER NOT NULL, data BLOB NOT NULL,
    digest BLOB NOT NULL, PRIMARY KEY (node, kind, height, view));
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""


def row_digest(*values: object) -> bytes:
    """What stands in a row's last column, over those before it."""
    state = hashlib.sha256()
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode()
        state.update(len(data).to_bytes(8, "big") + data)
    return state.digest()[:16]


class Store:
    """An open chain file.

    Raises:
        SetUpError: the file is damaged, unreadable, or belongs to another network.
    """

    def __init__(self, path: Path, chain_id: bytes) -> None:
        self._path = path
        self._writing, self._reading = threading.Lock(), threading.Lock()
        try:
            drop_sums(path)
            self._db = self._open()
            self._reader = self._open()
            self._prepare()
        except sqlite3.Error as problem:
            raise self._unusable(problem) from problem
        held = self.note("chain_id")
        if held is None:
            self.put_note("chain_id", chain_id)
        elif held != chain_id:
            raise SetUpError(
                f"the chain file {path} belongs to network {held.hex()[:16]}, this home to {chain_id.hex()[:16]}",
                hint="use the home that belongs to the file, or move the file away",
            )

    def put_block(
        self,
        block: consensus.Block,
        certificate: consensus.CommitCertificate,
        round_: dict[str, Any],
        *,
        durable: bool = True,
    ) -> None:
        """Keep a decision: the block, its certificate and this node's timings of the round. Readers see it at once."""
        self.put_evidence(block.evidence, durable=durable)
        row = (block.height, bytes(block.hash), block.encode(), certificate.encode(), json.dumps(round_))
        self._insert("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?, ?)", row, durable=durable)

    def make_durable(self) -> None:
        """Return when everything written so far survives a loss of power: SQLite syncs its log as a whole."""
        self.put_note("durable_height", self.height().to_bytes(8, "big"))

    def drop_above(self, height: int) -> None:
        """Forget the blocks of a history that is not the checkpoint's. For a joiner; nothing was built on them."""
        with self._writing:
            try:
                self._db.execute("DELETE FROM blocks WHERE height > ?", (height,))
            except sqlite3.Error as problem:
                raise self._unusable(problem) from problem

    def amend_round(self, height: int, round_: dict[str, Any]) -> None:
        """Replace the timings of a round once more of them are known. They are talk, not agreement, and do not wait for the disk."""
        rows = self._read("SELECT hash, block, certificate FROM blocks WHERE height = ?", height)
        if rows:
            row = (height, *rows[0], json.dumps(round_))
            self._insert("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?, ?)", row, durable=False)

    def height(self) -> int:
        """The highest decided height on disk, 0 when there is none."""
        return int(self._read("SELECT MAX(height) FROM blocks")[0][0] or 0)

    def block_rows(self, first: int, count: int) -> list[tuple[bytes, bytes]]:
        """Encoded (block, certificate) pairs of consecutive heights from ``first``."""
        rows = self._read(
            "SELECT height, block, certificate FROM blocks WHERE height >= ? ORDER BY height LIMIT ?", first, count
        )
        consecutive = [row for offset, row in enumerate(rows) if row[0] == first + offset]
        return [(block, certificate) for _, block, certificate in consecutive]

    def block_with_hash(self, digest: bytes) -> bytes | None:
        rows = self._read("SELECT block FROM blocks WHERE hash = ?", digest)
        return rows[0][0] if rows else None

    def rounds(self, last: int) -> list[dict[str, Any]]:
        """The newest ``last`` rounds as this node saw them, oldest first. Many take long to decode: off the loop."""
        found: list[str] = []
        height = self.height() + 1
        while len(found) < last:
            count = min(last - len(found), ROUNDS_PER_READ)
            rows = self._read(
                "SELECT round, height FROM blocks WHERE height < ? ORDER BY height DESC LIMIT ?", height, count
            )
            if not rows:
                break
            found += [row[0] for row in rows]
            height = rows[-1][1]
        return [json.loads(row) for row in reversed(found)]

    def round(self, height: int) -> dict[str, Any] | None:
        rows = self._read("SELECT round FROM blocks WHERE height = ?", height)
        return json.loads(rows[0][0]) if rows else None

    def put_evidence(self, evidence: Sequence[consensus.Evidence], *, durable: bool = True) -> None:
        for e in evidence:
            row = (bytes(e.author), str(e.kind), e.height, e.view, e.encode())
            self._insert("INSERT OR IGNORE INTO evidence VALUES (?, ?, ?, ?, ?, ?)", row, durable=durable)

    def evidence(self) -> list[tuple[bytes, str, int, int]]:
        """Every known offence as (public key, kind, height, view)."""
        return self._read("SELECT node, kind, height, view FROM evidence ORDER BY height, view")

    def evidence_proofs(self) -> list[bytes]:
        """Every known offence in its encoded form, which anybody can check."""
        return [row[0] for row in self._read("SELECT data FROM evidence")]

    def note(self, name: str) -> bytes | None:
        rows = self._read("SELECT value FROM notes WHERE name = ?", name)
        return rows[0][0] if rows else None

    def put_note(self, name: str, value: bytes) -> None:
        self._insert("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (name, value))

    def close(self) -> None:
        with self._writing, self._reading:
            self._reader.close()
            self._db.close()  # the last connection: SQLite brings everything into the file, and its log is gone
        with contextlib.suppress(OSError):  # without them a check sees less; on a full disk that is all that is lost
            keep_sums(self._path)

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION) or (
            version == 0 and self._db.execute("SELECT * FROM sqlite_master").fetchone()
        ):
            raise SetUpError(
                f"the chain file {self._path} has version {version}, this program reads {SCHEMA_VERSION}",
                "update p2pnode" if version > SCHEMA_VERSION else f"move {self._path.name}* away and start again",
            )
        self._db.execute("PRAGMA journal_mode=WAL")
        problems = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if problems[0] != "ok":
            raise sqlite3.DatabaseError(problems[0])
        self._db.executescript(_SCHEMA)

    def _read(self, question: str, *values: object) -> list[Any]:
        with self._reading:
            try:
                return self._reader.execute(question, values).fetchall()
            except sqlite3.Error as problem:
                raise self._unusable(problem) from problem

    def _insert(self, statement: str, row: tuple[object, ...], *, durable: bool = True) -> None:
        """``row`` and its digest."""
        self._write(statement, (*row, row_digest(*row)), durable=durable)

    def _write(self, statement: str, values: tuple[object, ...], *, durable: bool = True) -> None:
        with self._writing:
            try:
                self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._db.execute(statement, values)
            except sqlite3.Error as problem:
                raise self._unusable(problem) from problem

    def _unusable(self, problem: sqlite3.Error) -> SetUpError:
        """What is wrong with the file or its disk, and what to do: a full disk must not cost anybody a chain."""
        match getattr(problem, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF:
            case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
                state, hint = (
                    "cannot be written",
                    "free the disk or repair it and start again; nothing that was decided is lost",
                )
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                state, hint = "cannot be opened", "check who owns it and its mode"
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                state, hint = "is in use by another process", "end that process and start again"
            case _:
                state, hint = (
                    "is damaged",
                    (
                        f"move {self._path.name}* away and start again: the node fetches the chain anew and keeps its key and its votes"
                    ),
                )
        return SetUpError(f"the chain file {self._path} {state}: {problem}", hint)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=5.0)
