"""What ``--data`` and ``--dataset`` name becomes the text of a network: read, tokenized and written as one blob, a little at a time.

What it is: the founder's side, and the comparison of whoever names a text again. What it is not: the formats (``model/text``), or a text
that comes from peers (``texts``). Nothing is left behind where reading fails.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from model.data import Corpus, CorpusFile
from model.errors import CorpusError, ModelError, TokenizerError
from model.interchange.safetensors_file import open_regular
from model.limits import CORPUS_BYTES_MAX, TOKENIZER_BYTES_MAX
from model.text.census import Census
from model.text.encoding import encode
from model.text.rows import TEXT_COLUMN
from model.text.sources import Text, Wishes
from model.tokenizer import ByteTokenizer, Tokenizer, tokenizer_from_json
from model.words import Words
from p2pnode.blobs import Blobs, blob_path
from p2pnode.config import Config
from p2pnode.errors import SetUpError, why
from p2pnode.genesis import Genesis, TokenizerBlob
from p2pnode.home import Home
from transport import content

PROGRESS_SECONDS = 5.0
SETTINGS_OF_TEXT = ("data", "dataset", "column", "pairs")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Made:
    """A text as a blob of this home, and how its tokens stand in it. ``tokenizer``: ``None`` for bytes."""

    digest: bytes
    length: int
    words: Words
    tokenizer: TokenizerBlob | None


def wishes_of(config: Config) -> Wishes:
    return Wishes(config.data, config.dataset, config.column or (TEXT_COLUMN,), config.pairs)


def tokenizer_named(config: Config) -> Tokenizer:
    """``--tokenizer``: bytes, a ``tokenizer.json`` or a folder with one, or the name of a tiktoken encoding.

    Raises:
        SetUpError: there is none of that name, or it cannot be used.
    """
    name = config.tokenizer
    with _said():
        if name is None or name == "bytes":
            return ByteTokenizer()
        if isinstance(name, Path):
            return tokenizer_from_json(_document(name))
        from model.ranks import named_encoding

        return tokenizer_from_json(named_encoding(name))


def make(home: Home, config: Config, blobs: Blobs, tokenizer: Tokenizer, *, sequence: int, say: Say) -> Made:
    """Read what the settings name into a blob. ``say`` gets a line now and then, and what a person should know.

    Raises:
        SetUpError: something named cannot be read, or gives less than windows of ``sequence`` tokens need.
    """
    with _said():
        text = Text(wishes_of(config))
        words, seen = _words(text, tokenizer), _fingerprint(config, text)
        try:
            digest, length = blobs.put_chunks(_chunks(text, tokenizer, words, say))
        except OSError as problem:
            raise SetUpError(
                f"{home}: the text cannot be kept: {why(problem)}", "make room, or choose another --home"
            ) from None
        _remark(text.census, tokenizer, say)
        try:
            Corpus(CorpusFile(Path(), length), sequence, words=words)
        except CorpusError:
            blobs.drop(digest)
            raise
    _remember(home, seen, digest)
    if isinstance(tokenizer, ByteTokenizer):
        return Made(digest, length, words, None)
    document = tokenizer.to_json()
    return Made(digest, length, words, TokenizerBlob(blobs.put_durably(document), len(document)))


def digest_of_text(genesis: Genesis, config: Config, *, say: Say) -> bytes:
    """The digest of what the settings name, read again unless nothing about it has changed since the last time.

    Raises:
        SetUpError: something named cannot be read, or the network's tokenizer is not at hand.
    """
    with _said():
        text = Text(wishes_of(config))
        home, seen = Home(config.home), _fingerprint(config, text)
        known = _remembered(home, seen)
        if known is not None:
            return known
        tokenizer = tokenizer_for(genesis, config)
        digest = Blobs.digest_of_chunks(_chunks(text, tokenizer, _words(text, tokenizer), say))
    _remember(home, seen, digest)
    return digest


def tokenizer_for(genesis: Genesis, config: Config) -> Tokenizer:
    """The network's, to make its text again. Raises SetUpError."""
    if config.tokenizer is not None:
        return tokenizer_named(config)
    if genesis.tokenizer is None:
        return ByteTokenizer()
    try:
        document = blob_path(Home(config.home).blobs, genesis.tokenizer.digest).read_bytes()
    except OSError:
        raise SetUpError(
            "--data: the network's tokenizer is not here yet, and a text cannot be compared without",
            "leave --data out: the text comes from the peers",
        ) from None
    with _said():
        return tokenizer_from_json(document)


def learn_tokenizer(config: Config, vocabulary: int, *, say: Say) -> tuple[bytes, dict[str, object]]:
    """A ``tokenizer.json`` of so many tokens from what the settings name, and facts about it for people.

    Raises:
        SetUpError: something named cannot be read, or there is nothing in it.
    """
    from model.tokenizer_training import train

    with _said():
        text = Text(wishes_of(config))
        document = train(_characters(text, say), vocabulary)
        tokenizer = tokenizer_from_json(document)
        for remark in text.census.remarks(raw=False):
            say(remark)
    if tokenizer.vocabulary < vocabulary:
        say(f"the text has no more to merge: {tokenizer.vocabulary} tokens, and not {vocabulary}")
    return document, facts_of(tokenizer)


def facts_of(tokenizer: Tokenizer) -> dict[str, object]:
    """What a person wants to know of one."""
    digest = content.digest_of(tokenizer.to_json())
    return {"vocabulary": tokenizer.vocabulary, "end": tokenizer.end, "digest": digest.hex()}


def _characters(text: Text, say: Say) -> Iterator[str]:
    next_line = time.monotonic() + PROGRESS_SECONDS
    for piece in text.pieces():
        text.census.see(piece)
        if time.monotonic() >= next_line:
            say(f"reading: {text.census.progress()}")
            next_line = time.monotonic() + PROGRESS_SECONDS
        yield piece.text


def _words(text: Text, tokenizer: Tokenizer) -> Words:
    return Words.of(tokenizer.vocabulary, masked=text.masked, raw=isinstance(tokenizer, ByteTokenizer))


def _document(path: Path) -> bytes:
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        with open_regular(file) as source:
            document = source.read(TOKENIZER_BYTES_MAX + 1)
    except OSError as problem:
        raise TokenizerError(
            f"--tokenizer {file}: {why(problem)}",
            "name a tokenizer.json, a folder with one, bytes, or a tiktoken encoding",
        ) from None
    return document


def _chunks(text: Text, tokenizer: Tokenizer, words: Words, say: Say) -> Iterator[bytes]:
    length, next_line = 0, time.monotonic() + PROGRESS_SECONDS
    for chunk in encode(text.pieces(), tokenizer, words, text.census):
        length += len(chunk)
        if length > CORPUS_BYTES_MAX:
            raise CorpusError(f"the text is larger than {CORPUS_BYTES_MAX} bytes", "give a part of it")
        if time.monotonic() >= next_line:
            say(f"reading: {text.census.progress()}")
            next_line = time.monotonic() + PROGRESS_SECONDS
        yield chunk


def _remark(census: Census, tokenizer: Tokenizer, say: Say) -> None:
    say(f"text: {census.total()}")
    for remark in census.remarks(raw=isinstance(tokenizer, ByteTokenizer)):
        say(remark)


@contextmanager
def _said() -> Iterator[None]:
    """What the model library cannot use, as the error of this command."""
    try:
        yield
    except ModelError as problem:
        raise SetUpError(problem.message, problem.hint) from None


# --- so that a large text that is named in config.toml is not read again at every start --------------------------------------


def _fingerprint(config: Config, text: Text) -> str | None:
    """Of what was named and of the files as they are now; ``None`` where something named is no file."""
    if config.dataset or not all(isinstance(name, Path) for name in config.data) or not config.data:
        return None
    files: list[object] = []
    try:
        for place in text.places:
            status = place.path.stat()
            files.append([str(place.path), status.st_size, status.st_mtime_ns, status.st_ino])
    except OSError:
        return None
    named: Iterable[object] = (config.column, config.pairs, str(config.tokenizer))
    return hashlib.sha256(json.dumps([*named, *files]).encode(errors="surrogatepass")).hexdigest()


def _remember(home: Home, fingerprint: str | None, digest: bytes) -> None:
    if fingerprint is not None:
        with suppress(OSError):  # it is read again then
            home.text_seen.write_text(json.dumps({"of": fingerprint, "digest": digest.hex()}), encoding="utf-8")


def _remembered(home: Home, fingerprint: str | None) -> bytes | None:
    try:
        seen = json.loads(home.text_seen.read_text(encoding="utf-8"))
        return bytes.fromhex(seen["digest"]) if fingerprint is not None and seen["of"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
