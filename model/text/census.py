"""What reading a text met: counted while it goes by, and said afterwards."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_BAD: Final = re.compile("[\udc80-\udcff]")  # a byte that is no UTF-8, as `surrogateescape` decodes it
_NAMES_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a document. A byte that is no UTF-8 is a lone surrogate, U+DC80 to U+DCFF, so that nothing is lost here."""

    text: str
    ends: bool = False  # the document ends with it
    silent: bool = False  # to be read, and not to be learned


@dataclass(slots=True)
class Census:
    """Figures of one reading. `bytes_in_all` is 0 where nobody can know it before."""

    bytes_in_all: int = 0  # of the files, as they lie on the disk
    bytes_read: int = 0  # of these
    files: int = 0
    empty_files: int = 0
    left_out: list[str] = field(default_factory=list)  # names, of files that are no text
    left_out_count: int = 0
    documents: int = 0
    empty_documents: int = 0
    pairs: int = 0
    unpaired: int = 0
    text_bytes: int = 0
    tokens: int = 0
    bad_bytes: int = 0
    bad_documents: int = 0
    zeros: int = 0
    lf: int = 0
    crlf: int = 0
    cr: int = 0
    notes: list[str] = field(default_factory=list)
    _after_cr: bool = False
    _was_bad: bool = False

    def leave_out(self, name: str) -> None:
        """A file of a folder that is no text."""
        self.left_out_count += 1
        if len(self.left_out) < _NAMES_SHOWN:
            self.left_out.append(name)

    def see(self, piece: Piece) -> None:
        """Count what is in a piece, which follows the one before."""
        text = piece.text
        self.text_bytes += len(text) if text.isascii() else self._bytes_of(text)
        self.zeros += text.count("\0")
        breaks, returns, both = text.count("\n"), text.count("\r"), text.count("\r\n")
        if self._after_cr and text.startswith("\n"):  # the pair fell between two pieces, and its half was counted as CR
            self.cr, self.crlf, breaks = self.cr - 1, self.crlf + 1, breaks - 1
        self.lf, self.crlf, self.cr = self.lf + breaks - both, self.crlf + both, self.cr + returns - both
        self._after_cr = text.endswith("\r") and not piece.ends
        if piece.ends:
            self.bad_documents += self._was_bad
            self._was_bad = False

    def _bytes_of(self, text: str) -> int:
        bad = len(_BAD.findall(text))
        self.bad_bytes += bad
        self._was_bad = self._was_bad or bad > 0
        return len(text.encode(errors="surrogateescape"))

    def remarks(self, *, raw: bool) -> Iterator[str]:
        """What a person should know, a line each. `raw`: bytes go in as they are, also those that are no text."""
        if self.empty_files:
            yield f"{self.empty_files} of {self.files} files are empty"
        if self.left_out_count:
            more = ", ..." if self.left_out_count > len(self.left_out) else ""
            yield f"{self.left_out_count} files are no text, and were left out: {', '.join(self.left_out)}{more}"
        if self.empty_documents:
            yield f"{self.empty_documents} documents are empty, and were left out"
        if self.bad_bytes:
            fate = "kept as they are" if raw else "each became U+FFFD"
            yield f"{self.bad_bytes} bytes in {self.bad_documents} documents are not UTF-8: {fate}"
        if self.zeros:
            yield f"{self.zeros} zero bytes, kept as they are: is it text? of UTF-16, a mark at the beginning says so"
        if sum(count > 0 for count in (self.lf, self.crlf, self.cr)) > 1:
            yield f"mixed line ends, kept as they are: {self.lf} LF, {self.crlf} CR LF, {self.cr} CR"
        if self.pairs:
            yield f"{self.pairs} pairs: loss on the targets alone"
        if self.unpaired:
            yield f"{self.unpaired} lines have no ` |`: they are learned whole"
        yield from self.notes

    def total(self) -> str:
        """What was read, in a line."""
        files = f"{self.files} file{'s' * (self.files != 1)}, " if self.files else ""
        documents = f"{self.documents:,} document{'s' * (self.documents != 1)}"
        return f"{files}{documents}, {megabytes(self.text_bytes)}, {self.tokens:,} tokens"

    def progress(self) -> str:
        """How far it is, in a line."""
        share = (
            f"{100 * self.bytes_read // self.bytes_in_all} % of {megabytes(self.bytes_in_all)}, "
            if self.bytes_in_all
            else ""
        )
        return f"{share}{megabytes(self.text_bytes)} of text, {self.tokens:,} tokens"


def megabytes(count: int) -> str:
    if count < 10**5:
        return f"{count:,} bytes"
    return f"{count / 1e6:,.1f} MB" if count < 10**8 else f"{count / 1e6:,.0f} MB"
