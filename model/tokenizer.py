"""Text to tokens and back: bytes by default, or whatever a Hugging Face `tokenizer.json` describes.

What it is: one interface, and the two things behind it. A network's tokenizer other than bytes is the document itself, and
the `tokenizers` library carries it out, so that a folder that was exported means the same to everybody. What it is not:
training one or taking one from another format, or a stream of text (half a character is U+FFFD here).

For editors: no special token is added to a text, and none is recognised in it: `<|endoftext|>` in somebody's file is thirteen
characters, or else a text could end its own document. Lone surrogates, which UTF-8 cannot say, become U+FFFD (as in tiktoken).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from model.byte_level import byte_alphabet, byte_level_document
from model.errors import TokenizerError
from model.limits import TOKENIZER_BYTES_MAX, VOCABULARY, VOCABULARY_MAX

if TYPE_CHECKING:
    import tokenizers

END_TOKEN: Final = "<|endoftext|>"  # GPT-2's name for it, and ours wherever we choose  # noqa: S105
# How the end of a text is called by the tokenizers in use, the likeliest first.
_ENDS: Final = (END_TOKEN, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<｜end▁of▁sentence｜>")  # noqa: RUF001
_HINT: Final = "give the tokenizer.json of a Hugging Face model, or one that p2pnode tokenizer train has written"


class Tokenizer(Protocol):
    """What turns text into tokens, 0 to `vocabulary` - 1, and tokens into text. Threads may share one."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are; some numbers below may have no word."""
        ...

    @property
    def end(self) -> int | None:
        """The token that ends a text; None where there is none, as with bytes."""
        ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without any special one. Raises TokenizerError where the tokenizer has no word for it."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The same for several texts at once, on all cores where the tokenizer can."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens. Invalid UTF-8 becomes U+FFFD; a number without a word stands for nothing."""
        ...

    def to_json(self) -> bytes:
        """A Hugging Face `tokenizer.json` that means the same."""
        ...


class ByteTokenizer:
    """A token is a byte of UTF-8, and its number is the byte."""

    vocabulary: Final[int] = VOCABULARY
    end: Final[int | None] = None

    def encode(self, text: str) -> list[int]:
        return list(well_formed(text).encode())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if 0 <= token < VOCABULARY).decode(errors="replace")

    def to_json(self) -> bytes:
        """A byte-level BPE of 256 words without merges."""
        return byte_level_document({character: byte for byte, character in enumerate(byte_alphabet())}, merges=[])


class JsonTokenizer:
    """A `tokenizer.json`, carried out by the `tokenizers` library. Made by `tokenizer_from_json`."""

    def __init__(self, document: bytes, library: "tokenizers.Tokenizer") -> None:
        self._document = document
        self._library = library
        self.vocabulary: Final[int] = max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        special = {token.content: id for id, token in library.get_added_tokens_decoder().items() if token.special}
        self.end: Final[int | None] = next((special[name] for name in _ENDS if name in special), None)

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        with _library_errors("the tokenizer cannot read this text"):
            # "fast": without the place of each token in the text, which nobody asks for and which takes most of the memory.
            found = self._library.encode_batch_fast([well_formed(text) for text in texts], add_special_tokens=False)
            return [encoding.ids for encoding in found]

    def decode(self, tokens: Sequence[int]) -> str:
        known = [token for token in tokens if 0 <= token < self.vocabulary]
        with _library_errors("the tokenizer cannot write these tokens"):
            text: str = self._library.decode(known, skip_special_tokens=False)
        return text

    def to_json(self) -> bytes:
        """The very document that it was made from."""
        return self._document


def tokenizer_from_json(document: bytes) -> Tokenizer:
    """The tokenizer that a `tokenizer.json` describes; that of bytes is known by its document.

    Raises TokenizerError where the document is too large, damaged, has too many words, or draws at random.
    """
    if document == ByteTokenizer().to_json():
        return ByteTokenizer()
    if len(document) > TOKENIZER_BYTES_MAX:
        raise TokenizerError(f"a tokenizer of {len(document)} bytes; at most {TOKENIZER_BYTES_MAX} are allowed", _HINT)
    import tokenizers

    with _library_errors("not a tokenizer.json"):
        library = tokenizers.Tokenizer.from_buffer(document)
        library.no_truncation()  # what a document says of these is for batches of sentences
        library.no_padding()
        library.encode_special_tokens = True  # as text
        found = JsonTokenizer(document, library)
    if not 1 <= found.vocabulary <= VOCABULARY_MAX:
        raise TokenizerError(f"a tokenizer of {found.vocabulary} words; 1 to {VOCABULARY_MAX} are allowed", _HINT)
    if getattr(library.model, "dropout", None):
        raise TokenizerError("this tokenizer draws merges at random (dropout)", "set model.dropout to null in the file")
    return found


def well_formed(text: str) -> str:
    """The text with U+FFFD for surrogates that stand alone, and their character for those that stand in a pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


@contextmanager
def _library_errors(what: str) -> Iterator[None]:
    """The library raises bare Exceptions, and panics of Rust as something of its own that is not even one."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as problem:
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise TokenizerError(f"{what}: {reason}", _HINT) from None
