"""tiktoken's encodings as a `tokenizer.json`, so that nobody but the founder needs tiktoken (extra `tiktoken`).

An encoding is a table of ranks: any two neighbours whose bytes together are in it may merge, lowest rank first, and a word's rank is its
number. A document lists pairs, so every way to halve a word is one (as in the converter of transformers). What splits a text into words is
written in the dialect of Rust's regular expressions, and has to be said in Oniguruma's.
"""

import re
from collections.abc import Mapping

from model.byte_level import as_characters, byte_level_document
from model.errors import TokenizerError

_COUNTED = re.compile(r"(?<!\\)(\{\d+(?:,\d*)?\})\+")  # possessive in Rust, "again and again" in Oniguruma
_END = re.compile(r"(?<!\\)\$")  # of the text in Rust, of a line in Oniguruma


def named_encoding(name: str) -> bytes:
    """The `tokenizer.json` of an encoding that tiktoken knows by name. Raises TokenizerError."""
    try:
        import tiktoken
    except ImportError:
        raise TokenizerError(
            f"no tokenizer {name!r} here; if it is one of tiktoken's, that package is missing",
            "give a tokenizer.json, or pip install 'p2pnode[tiktoken]'",
        ) from None
    if name not in tiktoken.list_encoding_names():
        known = ", ".join(sorted(tiktoken.list_encoding_names()))
        raise TokenizerError(f"no tokenizer {name!r}", f"give a tokenizer.json, bytes, or one of tiktoken's: {known}")
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as problem:  # whatever its libraries raise where there is no network
        reason = " ".join(str(problem).split())[:120]
        raise TokenizerError(
            f"tiktoken cannot load {name} (no network?): {reason}",
            "make the tokenizer.json where there is a network: p2pnode tokenizer convert, or set TIKTOKEN_CACHE_DIR",
        ) from None
    return from_ranks(encoding._mergeable_ranks, encoding._pat_str, encoding._special_tokens)


def from_ranks(ranks: Mapping[bytes, int], pattern: str, special: Mapping[str, int]) -> bytes:
    """The `tokenizer.json` that gives every text the tokens that tiktoken gives it."""
    merges: list[tuple[int, int, int]] = []
    by_rank = {rank: word for word, rank in ranks.items()}
    for word, rank in ranks.items():
        for at in range(1, len(word)):
            left, right = ranks.get(word[:at]), ranks.get(word[at:])
            if left is not None and right is not None:
                merges.append((rank, left, right))
    merges.sort()
    written = {rank: as_characters(word) for rank, word in by_rank.items()}
    return byte_level_document(
        {written[rank]: rank for rank in sorted(by_rank)},
        [(written[left], written[right]) for _, left, right in merges],
        pattern=_END.sub(r"\\z", _COUNTED.sub(r"\1", pattern)),
        special=special,
        ignore_merges=True,
    )
