"""Byte-level BPE as a `tokenizer.json` says it: GPT-2's alphabet of bytes, and the document around words and merges.

Every byte has a printable character (Radford et al. 2019, `bytes_to_unicode`), so that any text has tokens and any tokens
have bytes. The form of the document is that of the `tokenizers` library; what is written here need not be loaded by it first.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

_SHIFT: Final = 0x100  # bytes without a character that prints take the next free ones from here on


@cache
def byte_alphabet() -> tuple[str, ...]:
    """The character of each byte, 0 to 255: itself where Latin-1 prints it, else one from U+0100 on, in order."""
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in printed]
    return tuple(chr(byte) if byte in printed else chr(_SHIFT + hidden.index(byte)) for byte in range(256))


def as_characters(word: bytes) -> str:
    """A word of the vocabulary, as the document has it."""
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in word)


def byte_level_document(
    words: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    pattern: str | None = None,
    special: Mapping[str, int] | None = None,
    ignore_merges: bool = False,
) -> bytes:
    """A `tokenizer.json`, canonical: `words` and `merges` in the alphabet above, `special` tokens as they are.

    `pattern`: a text is first split into its matches (a regular expression of Oniguruma); None: it is not split.
    `ignore_merges`: a match that is a word is that word, whatever the merges would make of it (as in tiktoken).
    """
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    first = bytes_alone if pattern is None else {"type": "Sequence", "pretokenizers": [split, bytes_alone]}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = sorted((special or {}).items(), key=lambda item: item[1])
    document: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": name, **flags} for name, number in added],
        "normalizer": None,
        "pre_tokenizer": first,
        "post_processor": None,
        "decoder": bytes_alone,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": {**words, **dict(added)},  # the library takes an added token's number from here alone
            "merges": [list(pair) for pair in merges],
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
