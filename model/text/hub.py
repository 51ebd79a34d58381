"""Named data sets through Hugging Face's `datasets` (extra `datasets`).

`NAME`, `NAME:CONFIGURATION` or `NAME:CONFIGURATION:SPLIT`, of the hub or a folder on this machine; some have short names here. Rows stream
from the network as they are read. Where there is no network, what the library has kept from before is used, or else that is said.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import Request, urlopen

from model.errors import CorpusError
from model.text.census import Census, Piece
from model.text.rows import TEXT_COLUMN, missing, pieces_of_row

_REACHED_SECONDS_MAX: Final = 5.0
_OFFLINE_HINT: Final = "download it where there is a network, and give the files with --data"


@dataclass(frozen=True, slots=True)
class Known:
    """`lines`: a row is a line of a longer text, and no document of its own."""

    path: str
    configuration: str | None = None
    revision: str | None = None
    lines: bool = False


KNOWN: Final = {
    "wikitext-2": Known("Salesforce/wikitext", "wikitext-2-raw-v1", lines=True),
    "wikitext-103": Known("Salesforce/wikitext", "wikitext-103-raw-v1", lines=True),
    "tiny-shakespeare": Known("karpathy/tiny_shakespeare", revision="refs/convert/parquet"),
}
_ALIASES: Final = {
    "wikitext2": "wikitext-2",
    "wikitext": "wikitext-2",
    "wikitext103": "wikitext-103",
    "tinyshakespeare": "tiny-shakespeare",
    "shakespeare": "tiny-shakespeare",
}


def dataset(name: str, columns: Sequence[str], census: Census) -> Iterator[Piece]:
    """The rows of a data set. Raises CorpusError."""
    known, split = resolve(name)
    rows = _rows(name, known, split)
    place = f"--dataset {name}"
    for number, row in enumerate(_guarded(rows, place), 1):
        if number == 1 and list(columns) == [TEXT_COLUMN] and TEXT_COLUMN not in row:
            columns = _only_text(row, place)
        for piece in pieces_of_row(row, columns, census, f"{place}, row {number}"):
            yield Piece(piece.text if piece.text.endswith("\n") else piece.text + "\n") if known.lines else piece
    if known.lines:
        yield Piece("", ends=True)


def resolve(name: str) -> tuple[Known, str]:
    """Which data set a name means, and which part of it."""
    base, _, rest = name.partition(":")
    configuration, _, split = rest.partition(":")
    short = base.lower().replace("_", "-")
    known = KNOWN.get(_ALIASES.get(short, short))
    if known is None or configuration:
        known = Known(known.path if known else base, configuration or None, lines=bool(known and known.lines))
    return known, split or "train"


def _only_text(row: dict[str, Any], place: str) -> list[str]:
    """A single column of text needs no name."""
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if len(texts) != 1:
        raise missing([TEXT_COLUMN], list(row), place)
    return texts


def _rows(name: str, known: Known, split: str) -> Any:
    is_here = Path(known.path).exists()
    streams = is_here or _reaches()
    library = _library(offline=not streams)
    options: dict[str, Any] = {"name": known.configuration, "split": split, "streaming": streams}
    if known.revision is not None:
        options["revision"] = known.revision
    if not streams:
        options["download_config"] = library.DownloadConfig(local_files_only=True)
    try:
        return library.load_dataset(known.path, **options)
    except Exception as problem:
        if not streams:
            raise CorpusError(
                f"--dataset {name}: {_endpoint()} cannot be reached (no network?)", _OFFLINE_HINT
            ) from None
        raise _failed(f"--dataset {name}", problem) from None


def _guarded(rows: Any, place: str) -> Iterator[dict[str, Any]]:
    """The library raises whatever its own libraries raise, also in the middle of the rows."""
    source = iter(rows)
    while True:
        try:
            row = next(source)
        except StopIteration:
            return
        except Exception as problem:
            raise _failed(place, problem) from None
        yield row


def _failed(place: str, problem: Exception) -> CorpusError:
    reason = " ".join(str(problem).split())[:200] or type(problem).__name__
    return CorpusError(f"{place}: {reason}", "is the name right? NAME:CONFIGURATION:SPLIT says all of it")


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _reaches() -> bool:
    """Whether anybody answers: asked once, for the library asks for half a minute before it gives up."""
    if os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE"):
        return False
    try:
        with urlopen(Request(_endpoint(), method="HEAD"), timeout=_REACHED_SECONDS_MAX):  # noqa: S310 - an address of the user's
            return True
    except URLError as problem:
        return getattr(problem, "code", None) is not None  # it answered, whatever it thinks of the question
    except (OSError, ValueError):
        return False


def _library(*, offline: bool) -> Any:
    if offline:
        os.environ.setdefault(
            "HF_HUB_OFFLINE", "1"
        )  # read once, as the library is imported: it asks again and again else
    try:
        import datasets
    except ImportError:
        raise CorpusError("--dataset needs the package datasets", "pip install 'p2pnode[datasets]'") from None
    datasets.disable_progress_bars()
    return datasets
