"""A key moves to another home with all that it has signed: ``p2pnode export-key`` and ``p2pnode import-key``.

What it is: one file with the secret key, the vote log, the height that was decided, and the genesis; and the order of writes by which at any
moment at most one of the old home and the file can sign. What it is not: a backup (the file is used up by its import), or the chain, the
text and the models, which the new home has from its peers.

    export   FILE.part durable -> the home is marked as moved, durable -> its key is gone -> FILE.part becomes FILE
    import   vote log durable -> genesis -> the mark is gone -> key durable -> FILE is gone

A crash between two steps leaves a home that says what has become of it, and the same command again goes on. Blocking; nothing may run in
the home.

Rules for editing: a file that can be imported exists under its name only once the old home cannot sign any more, and a key stands in the
new home only once its votes do. What the log cannot show to be whole is not handed on.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import consensus
import transport
from p2pnode.errors import SetUpError, UserError, why
from p2pnode.files import FILES, sync_at, write_whole
from p2pnode.founding import write_genesis
from p2pnode.genesis import Genesis, parse
from p2pnode.home import Home
from p2pnode.recovery import chain_shows, read_records, restore_decisions
from p2pnode.store import Store
from p2pnode.vote_records import Moved, encode
from p2pnode.wal import VoteLog, recover
from transport.identity import SEED_BYTES, Identity, read_secret, write_secret

VERSION = 1
FILE_BYTES_MAX = 64 << 20  # a vote log is rewritten at 1 MiB; a height of 256 members adds a few
_NOT_WHOLE = "start the node here until p2pnode status no longer says that it is not voting, then export again"


@dataclass(frozen=True, slots=True)
class Moving:
    """What a file holds: the key, what its log holds, and the height that was decided with it. ``genesis`` is None before a network."""

    identity: Identity
    genesis: Genesis | None
    height: int
    records: tuple[bytes, ...]


# --- out of a home ---------------------------------------------------------------------------------------------------------------------


def export_key(home: Home, file: Path) -> Moving:
    """Move the key of ``home``, with its votes, into a new ``file``. From then on the home signs nothing.

    Raises:
        SetUpError: a node runs in the home, it has no key, its vote log is not whole, or ``file`` cannot be written.
    """
    file = file.absolute()
    if not home.path.is_dir():
        raise SetUpError(f"{home} is no node's home", "--home names the home whose key is to move")
    with home.locked():
        part = file.with_name(file.name + ".part")
        if home.moved.exists():
            return _finish(home, file, part)
        if not home.key.exists():
            raise SetUpError(f"{home} holds no key", "--home names the home whose key is to move")
        if file.exists() or file.is_symlink():
            raise SetUpError(
                f"{file} exists already", "name a file that does not; it will hold the only copy of the key"
            )
        moving = _collect(home)
        files = FILES.get()
        try:
            files.remove(part)  # of an export that ended before the home was marked; nobody was told of it
            write_secret(part, _encode(moving))
            sync_at(files, part.parent)
        except OSError as problem:
            raise SetUpError(f"{part}: {why(problem)}", "name a file in a folder that you can write to") from problem
        write_whole(files, home.moved, f"{file}\n".encode())
        return _finish(home, file, part)


def _collect(home: Home) -> Moving:
    """Everything that the key's next home must know. Raises SetUpError where this one does not know it."""
    identity = Identity.load(home.key)
    recovered = recover(home.votes)
    problem = read_records(recovered)[1] or ("it is missing, though this home has had one" if recovered.lost else None)
    if problem is not None:
        raise SetUpError(f"{home.votes}: {problem}: what this key signed is not known", _NOT_WHOLE)
    genesis = parse(home.genesis.read_bytes()) if home.initialised else None
    height = 0 if genesis is None else _decided(home, genesis, identity)
    return Moving(identity, genesis, height, recovered.records)


def _decided(home: Home, genesis: Genesis, identity: Identity) -> int:
    """The height of the chain file, as a start would find it."""
    if not home.chain.exists():
        return 0
    store = Store(home.chain, genesis.chain_id)
    try:
        restore_decisions(home.votes, store, consensus.Digest(genesis.chain_id))
        store.make_durable()
        if not recover(home.votes).begun and chain_shows(store, consensus.PublicKey(identity.public_key)):
            raise SetUpError(f"{home} has no vote log, and its chain shows votes of this key", _NOT_WHOLE)
        return store.height()
    finally:
        store.close()


def _finish(home: Home, file: Path, part: Path) -> Moving:
    """The home is marked: take the key out of it, and give the file its name. Again after a crash, as often as it takes."""
    files = FILES.get()
    marked = Path(home.moved.read_text(encoding="utf-8").strip())
    if marked != file or not part.exists():
        home.check_key_is_here()
    moving = read_moving(part)
    files.remove(home.key)
    sync_at(files, home.path)
    try:
        files.rename(part, file)
        sync_at(files, file.parent)
    except OSError as problem:
        hint = f"the key is in {part}; the same command again goes on"
        raise SetUpError(f"{file}: {why(problem)}", hint) from problem
    return moving


# --- into a home -----------------------------------------------------------------------------------------------------------------------


def import_key(home: Home, file: Path) -> Moving:
    """Put the key in ``file``, with its votes, into a home that has none, and remove the file.

    Raises:
        SetUpError: a node runs in the home, it has a key or belongs to another network or node, or ``file`` is none of ``export_key``.
    """
    with home.locked():
        if home.key.exists() or home.key.is_symlink():
            raise SetUpError(f"{home} has a key already", "choose a home without one with --home")
        moving = read_moving(file)
        _check_fits(home, moving)
        files = FILES.get()
        VoteLog(home.votes, anew=[*moving.records, encode(Moved(moving.height))]).close()
        if moving.genesis is not None and not home.initialised:
            write_genesis(home, moving.genesis)
        files.remove(home.moved)
        moving.identity.save(home.key)
        sync_at(files, home.path)
        try:
            files.remove(file)
            sync_at(files, file.absolute().parent)
        except OSError as problem:
            hint = (
                "remove it yourself: a second import of it would sign beside this home, and cost the key its membership"
            )
            raise UserError(f"the key is in {home}, but {file} is still there: {why(problem)}", hint) from problem
    return moving


def _check_fits(home: Home, moving: Moving) -> None:
    """A home that has been a node's takes that node's key only. Raises SetUpError."""
    if not home.initialised:
        return
    held = parse(home.genesis.read_bytes())
    if moving.genesis is not None and held.chain_id != moving.genesis.chain_id:
        raise SetUpError(
            f"{home} belongs to network {held.chain_id.hex()[:16]}, the key to {moving.genesis.chain_id.hex()[:16]}",
            "choose another home with --home",
        )
    if home.chain.exists():
        store = Store(home.chain, held.chain_id)
        try:
            key = store.note("public_key")
        finally:
            store.close()
        if key is not None and key != moving.identity.public_key:
            raise SetUpError(
                f"{home} was the home of node {transport.short_id(key)}, the key is of {moving.identity.node_id[:10]}",
                "choose another home with --home",
            )


# --- the file --------------------------------------------------------------------------------------------------------------------------


def read_moving(file: Path) -> Moving:
    """What ``export_key`` wrote. Raises SetUpError for anything else."""
    try:
        document = read_secret(file, "file", bytes_max=FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise SetUpError(f"there is no file {file}", "p2pnode export-key makes one of the old home") from None
    except transport.UserError as problem:
        raise SetUpError(problem.message, problem.hint) from None
    try:
        return _decode(document)
    except (ValueError, KeyError, TypeError, RecursionError, UserError) as problem:
        raise SetUpError(
            f"{file} is no whole file of p2pnode export-key: {problem}", "copy it again from where it was made"
        ) from None


def _encode(moving: Moving) -> bytes:
    fields = {
        "p2pnode_key": VERSION,
        "node": moving.identity.node_id,
        "secret_key": moving.identity.seed.hex(),
        "genesis": None if moving.genesis is None else moving.genesis.to_bytes().decode(),
        "height": moving.height,
        "votes": [base64.b64encode(record).decode() for record in moving.records],
    }
    return (json.dumps({**fields, "digest": _digest(fields)}, indent=1) + "\n").encode()


def _decode(document: bytes) -> Moving:
    """Raises whatever a wrong document makes of itself."""
    fields = json.loads(document)
    if fields["p2pnode_key"] != VERSION:
        raise ValueError(f"it has version {fields['p2pnode_key']}, this program reads {VERSION}")
    if fields.pop("digest") != _digest(fields):
        raise ValueError("its digest is not that of the rest")
    seed = bytes.fromhex(fields["secret_key"])
    if len(seed) != SEED_BYTES:
        raise ValueError("its key has another length")
    genesis = None if fields["genesis"] is None else parse(fields["genesis"].encode())
    records = tuple(base64.b64decode(record, validate=True) for record in fields["votes"])
    return Moving(Identity(seed), genesis, int(fields["height"]), records)


def _digest(fields: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
