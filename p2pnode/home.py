"""The home directory: where a node keeps everything, who may enter, and that only one node lives in it.

What it is: the paths of the layout, the lock, and the place of the control socket. What it is not: the files' formats; each belongs
to the module that writes it.

For editors: the layout is a promise to operators and to backup scripts; add names, never move them. Nothing here follows a symlink
into a directory that another user owns.
"""

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2pnode.errors import SetUpError, why

# sockaddr_un.sun_path holds 108 bytes on Linux and 104 on the BSDs and macOS, the closing zero included.
SOCKET_PATH_BYTES_MAX = 103

HOME_VARIABLE = "P2PNODE_HOME"


@dataclass(frozen=True, slots=True)
class Home:
    """One node's directory. Constructing it touches no disk; ``create`` does."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def key(self) -> Path:
        return self.path / "node.key"

    @property
    def moved(self) -> Path:
        """Stands where ``p2pnode export-key`` took the key away, and says where to."""
        return self.path / "node.moved"

    @property
    def genesis(self) -> Path:
        return self.path / "genesis.json"

    @property
    def chain(self) -> Path:
        return self.path / "chain.sqlite"

    @property
    def votes(self) -> Path:
        return self.path / "votes.log"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def trainer(self) -> Path:
        return self.path / "trainer"

    @property
    def text_seen(self) -> Path:
        return self.path / "text.json"

    @property
    def lock_file(self) -> Path:
        return self.path / "node.lock"

    @property
    def log(self) -> Path:
        return self.path / "p2pnode.log"

    @property
    def history(self) -> Path:
        return self.path / "history"

    @property
    def control_pointer(self) -> Path:
        return self.path / "control.path"

    @property
    def initialised(self) -> bool:
        """Whether the node belongs to a network already."""
        return self.genesis.exists()

    def check_key_is_here(self) -> None:
        """Raise SetUpError where the key has moved: making another, or using what a crash left of it, is not what anybody wants."""
        if self.moved.exists():
            file = self.moved.read_text(encoding="utf-8", errors="replace").strip()
            raise SetUpError(
                f"home {self.path}: its key has moved to {file}: nothing votes from here any more",
                "p2pnode import-key takes a moved key into a home, also back into this one; --home names another home",
            )

    def create(self) -> None:
        """Make the directory for the owner alone (0700); refuse one that others can write to."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.path.stat()
        except OSError as error:
            raise SetUpError(f"home {self.path}: {why(error)}", "choose another with --home") from error
        _check_private(self.path, status)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home for this process; a second node in the same home would sign twice under one key."""
        self.create()
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SetUpError(f"{self.lock_file}: {why(error)}", "check who owns it and its mode") from error
        try:
            if not _lock(descriptor):
                raise SetUpError(
                    f"home {self.path}: a node is running in it already (pid {_read_pid(descriptor)})",
                    "p2pnode attach opens it, p2pnode stop ends it; --home names another home",
                )
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            # The file stays: removing it would let two starters lock two different files of one name.
            os.close(descriptor)

    def running_pid(self) -> int | None:
        """The process that holds the lock, or None. Zero if it has not written its number yet."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_pid(descriptor)
        else:
            return None
        finally:
            os.close(descriptor)

    def wait_released(self, *, timeout_seconds: float) -> bool:
        """Block until no process holds the lock; False if one still does after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while self.running_pid() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)  # flock knows no timeout; this is a command waiting, never the node
        return True

    def control_socket(self) -> Path:
        """Where a client finds the socket: in the home, or where ``control.path`` says."""
        try:
            return Path(self.control_pointer.read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            return self.path / "control.sock"

    def place_control_socket(self) -> Path:
        """Choose the socket's path before binding: a long home gets a short private directory, named in ``control.path``."""
        direct = self.path / "control.sock"
        if len(os.fsencode(direct)) <= SOCKET_PATH_BYTES_MAX:
            self.control_pointer.unlink(missing_ok=True)
            return direct
        short = _short_directory(self.path) / "control.sock"
        self.control_pointer.write_text(f"{short}\n", encoding="utf-8")
        return short

    def remove_control_socket(self) -> None:
        """Leave no socket behind: the node calls this when it ends."""
        place = self.control_socket()
        place.unlink(missing_ok=True)
        if place.parent != self.path:
            self.control_pointer.unlink(missing_ok=True)
            try:
                place.parent.rmdir()
            except OSError:
                pass  # somebody put something there; not ours to remove


def find_home(flag: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> Home:
    """``--home``, else ``P2PNODE_HOME``, else the platform's place for a user's data."""
    chosen = flag or environ.get(HOME_VARIABLE)
    if chosen:
        return Home(Path(chosen).expanduser().absolute())
    import platformdirs

    return Home(platformdirs.user_data_path("p2pnode", appauthor=False))


def _lock(descriptor: int) -> bool:
    """Take the lock now, or not at all. Asked three times because ``running_pid`` holds it, shared, for an instant."""
    for pause_seconds in (0.01, 0.01, 0):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause_seconds)
        else:
            return True
    return False


def _read_pid(descriptor: int) -> int:
    try:
        return int(os.pread(descriptor, 32, 0) or b"0")
    except ValueError:
        return 0


def _short_directory(home: Path) -> Path:
    """A private directory with a short name, the same for the same home, so that a restart finds and replaces its socket."""
    uid = os.getuid()
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    candidates = [Path(runtime) / f"p2pnode-{name}"] if runtime and Path(runtime).is_dir() else []
    candidates.append(Path(f"/tmp/p2pnode-{uid}-{name}"))  # noqa: S108 - its owner and mode are checked below
    directory = next(c for c in candidates if len(os.fsencode(c / "control.sock")) <= SOCKET_PATH_BYTES_MAX)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError as error:
        raise SetUpError(f"{directory}: {why(error)}", "choose a home with a shorter path") from error
    _check_private(directory, status)
    return directory


def _check_private(directory: Path, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise SetUpError(f"{directory}: not a directory", "choose another home with --home")
    if status.st_uid != os.getuid():
        raise SetUpError(
            f"{directory}: belongs to user {status.st_uid}, not to you",
            "run as its owner, or choose another with --home",
        )
    if status.st_mode & 0o022:
        raise SetUpError(f"{directory}: others can write to it", f"chmod 700 {directory}")
