"""``p2pnode verify``: whether a home, an exported chain or an exported model is what its genesis and its signatures say. Offline, and read-only.

    report.py     what was found: faults, each with its file and place, and one verdict
    database.py   the chain file: one consistent view of it, its pages and rows
    chainfile.py  an exported chain in one file
    chain.py      every height from the genesis: block, certificate, committee, evidence, requests
    disk.py       what lies beside the chain: key, vote log, snapshots, payloads
    replay.py     every model again, wherever its payloads are kept
    folder.py     a model that was exported, against the chain beside it

What it is not: a second opinion on the rules; ``consensus.check_block`` and ``check_certificate`` decide, so a new rule comes for free.

Rules for editing: take no lock and change no byte, because the node may be running. A fault names the file and, where it can be told, the
height, the field or the byte. What cannot be checked is said, never passed over.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import consensus
from p2pnode.errors import SetUpError
from p2pnode.genesis import PROTOCOL_VERSION, Genesis, chain_id_of, parse
from p2pnode.home import Home
from p2pnode.model_card import CHAIN
from p2pnode.verify import chainfile, disk, folder, replay
from p2pnode.verify.chain import VerifiedChain, check_chain
from p2pnode.verify.database import Database
from p2pnode.verify.report import Report

__all__ = ["Report", "Wishes", "verify"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """``export``: where to write the chain once it holds. ``progress``: told now and then what is being done."""

    replay: bool = False
    export: Path | None = None
    progress: Callable[[str], None] = lambda _: None


def verify(path: Path, wishes: Wishes) -> Report:
    """Check a home, an exported chain or an exported model.

    Raises:
        SetUpError: there is nothing here that could be checked.
    """
    report = Report(str(path))
    if folder.is_export(path):
        _verify_folder(path, wishes, report)
    elif path.is_dir():
        _verify_home(Home(path), wishes, report)
    elif path.is_file():
        _verify_file(path, wishes, report)
    else:
        raise SetUpError(f"{path}: there is no such file or directory", "name a node's home, or what was exported")
    return report


def _verify_file(path: Path, wishes: Wishes, report: Report) -> VerifiedChain | None:
    if wishes.replay or wishes.export is not None:
        report.note("an exported chain holds no payloads, and need not be exported again")
    found, chain = chainfile.read(path, report), None
    if found is None:
        return None
    genesis = _genesis(found.genesis, path.name, report)
    if genesis is not None:
        chain = check_chain(genesis, found.rows, file=path.name, report=report, progress=wishes.progress)
    if not report.faults and not found.sealed:
        report.fault(path.name, "its last 32 bytes are not the digest of the rest", field="digest")
    return chain


def _verify_folder(path: Path, wishes: Wishes, report: Report) -> None:
    chain = _verify_file(path / CHAIN, wishes, report)
    if chain is not None and not report.faults:
        folder.check_model(path, chain, report)


def _verify_home(home: Home, wishes: Wishes, report: Report) -> None:
    document = _document(home)
    logged = disk.read_votes(home, report)  # before the chain, so that a node that runs meanwhile is never ahead of it
    pinned = None
    if home.chain.exists():
        with Database(home, report) as database:
            pinned = database.chain_id()
            genesis = _home_genesis(document, pinned, report)
            if genesis is not None and database.readable:
                chain = check_chain(
                    genesis, database.rows(), file=home.chain.name, report=report, progress=wishes.progress
                )
                database.check_rest(chain)
                _beside(home, chain, logged, wishes=wishes, database=database)
    else:
        genesis = _home_genesis(document, None, report)
        if genesis is not None:
            chain = check_chain(genesis, iter(()), file=home.chain.name, report=report, progress=wishes.progress)
            report.note("no chain file: nothing here pins the genesis but its own form")
            disk.check_key(home, None, logged, report)


def _beside(home: Home, chain: VerifiedChain, logged: disk.Logged, *, wishes: Wishes, database: Database) -> None:
    report = database.report
    key = disk.check_key(home, database.note("public_key"), logged, report)
    disk.check_votes(logged, chain, database, key)
    disk.check_snapshots(home, chain, report)
    disk.check_blobs(home, report, wishes.progress)
    if wishes.replay:
        replay.replay(home, chain, database, wishes.progress)
    if wishes.export is not None:
        if report.faults:
            report.note(f"{wishes.export} was not written, because of the faults")
        else:
            chainfile.write(wishes.export, genesis=chain.genesis, height=chain.state.height, rows=database.rows())


def _document(home: Home) -> bytes:
    try:
        return home.genesis.read_bytes()
    except FileNotFoundError:
        raise SetUpError(
            f"{home}: no node's home: it has no {home.genesis.name}", "name the directory that a node was started in"
        ) from None


def _home_genesis(document: bytes, pinned: bytes | None, report: Report) -> Genesis | None:
    """The genesis of a home; the chain file knows the hash that it had."""
    if pinned is not None and pinned != chain_id_of(document):
        report.fault("genesis.json", f"its hash is not {pinned.hex()[:16]}, by which the chain file knows the network")
        return None
    return _genesis(document, "genesis.json", report)


def _genesis(document: bytes, file: str, report: Report) -> Genesis | None:
    protocol = _declared_protocol(document)
    if protocol > PROTOCOL_VERSION:
        raise SetUpError(f"{file}: written by a later version (protocol {protocol})", "update p2pnode")
    try:
        genesis = parse(document)
        genesis.state()
    except Exception as problem:  # whatever a changed byte makes of it is the finding
        report.fault(file, getattr(problem, "message", str(problem)), field="genesis")
        return None
    report.network = consensus.Digest(genesis.chain_id)
    return genesis


def _declared_protocol(document: bytes) -> int:
    try:
        declared = json.loads(document)["protocol"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0  # `parse` says what it is
    return declared if type(declared) is int else 0
