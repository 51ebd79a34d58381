"""What a person named to the files that are meant: a file, a folder with all below it, a pattern with `*`.

In an order that does not depend on the file system, each file once. Names that begin with a dot are passed over in folders, as a shell
does, and so are links to folders, which could lead around in a circle, and the homes of nodes.
"""

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model.errors import CorpusError
from model.limits import FILES_MAX

HINT: Final = "--data takes text, jsonl, csv and parquet files, folders of them, and patterns such as 'books/*.txt'"
KEY_FILE: Final = (
    "node.key"  # where it lies is the home of a node, which is nobody's text: a key in it would go to every peer
)
_GENERATED: Final = frozenset({"__pycache__", "node_modules", "CVS"})


@dataclass(frozen=True, slots=True)
class Place:
    """A regular file. `named`: a person meant this one, and not a folder that it lies in."""

    path: Path
    size: int
    named: bool


def find(names: Sequence[Path]) -> list[Place]:
    """Raises CorpusError where a name means nothing, or nothing that can be read."""
    found: dict[tuple[int, int], Place] = {}
    for name in names:
        before = len(found)
        for path, named in _meant(name):
            status = _status(path, named)
            if status is not None:
                found.setdefault((status.st_dev, status.st_ino), Place(path, status.st_size, named))
            if len(found) > FILES_MAX:
                raise CorpusError(f"{name}: more than {FILES_MAX} files", "give a part, or one jsonl instead")
        if len(found) == before and not any(True for _ in _meant(name)):
            raise CorpusError(f"{name}: no files there", HINT)
    return list(found.values())


def _meant(name: Path) -> Iterator[tuple[Path, bool]]:
    try:
        is_folder, is_there = name.is_dir(), os.path.lexists(name)
    except (OSError, ValueError) as problem:
        raise CorpusError(f"{str(name)[:200]!r}: is no path ({problem})", HINT) from None
    if is_folder:
        yield from ((path, False) for path in _below(name))
    elif is_there or not glob.has_magic(str(name)):
        yield name, True
    else:
        matches = sorted(glob.glob(str(name), recursive=True))  # noqa: PTH207 - a pattern may be absolute
        if not matches:
            raise CorpusError(f"{name}: nothing matches", HINT)
        for match in map(Path, matches):
            if match.is_dir():
                yield from ((path, False) for path in _below(match))
            else:
                yield match, True


def _below(folder: Path) -> Iterator[Path]:
    def fail(problem: OSError) -> None:
        raise CorpusError(f"{problem.filename}: cannot be read ({problem.strerror})", "check who owns it, and its mode")

    for directory, below, names in os.walk(folder, onerror=fail):
        if KEY_FILE in names:
            below.clear()
            continue
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in _GENERATED)
        yield from (Path(directory, name) for name in sorted(names) if not name.startswith("."))


def _status(path: Path, named: bool) -> os.stat_result | None:
    """Of a regular file; None for what else lies in a folder."""
    try:
        status = path.stat()
    except ValueError as problem:
        raise CorpusError(f"{str(path)[:200]!r}: is no path ({problem})", HINT) from None
    except OSError as error:
        if not named:
            return None  # a link that leads nowhere
        raise CorpusError(f"{path}: cannot be read ({error.strerror})", HINT) from None
    if not stat.S_ISREG(status.st_mode):
        if named:
            raise CorpusError(f"{path}: is not a regular file", HINT)
        return None
    return status
