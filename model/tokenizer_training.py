"""A byte-level BPE learned from a text: `p2pnode tokenizer train`.

The words that a text is split into are Llama 3's (letters with what stands before them, digits by three, line ends by themselves). What it
learns from is a sample, spread evenly over the text, whose size bounds the memory: a merge that matters is in it, too.
"""

from collections.abc import Iterable
from typing import Final

from model.errors import TokenizerError
from model.limits import VOCABULARY, VOCABULARY_MAX
from model.tokenizer import END_TOKEN, tokenizer_from_json, well_formed

PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEFAULT_VOCABULARY: Final = 8192
LEAST_VOCABULARY: Final = VOCABULARY + 1  # every byte, and the end
SAMPLE_CHARACTERS_MAX: Final = 1 << 26  # 64 MiB and what is counted in them: half a gigabyte at most
_PART_CHARACTERS: Final = 1 << 15


def train(texts: Iterable[str], vocabulary: int = DEFAULT_VOCABULARY) -> bytes:
    """The `tokenizer.json` of so many tokens, bytes and the end included; fewer where the text has no more to merge.

    The same for the same texts. Raises TokenizerError.
    """
    if not LEAST_VOCABULARY <= vocabulary <= VOCABULARY_MAX:
        raise TokenizerError(
            f"a vocabulary of {vocabulary}; {LEAST_VOCABULARY} to {VOCABULARY_MAX} are allowed",
            f"{DEFAULT_VOCABULARY} suits a small model, 32768 a large one",
        )
    parts = sample(texts)
    if not parts:
        raise TokenizerError("the text is empty: there is nothing to learn from", "name a text with --data")
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), alone])
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(parts, trainer=trainer)
    document: bytes = library.to_str().encode()
    tokenizer_from_json(document)  # what is written can be read
    return document


def sample(texts: Iterable[str]) -> list[str]:
    """Parts of a text, evenly spread, of at most SAMPLE_CHARACTERS_MAX: whenever there are more, every other one goes."""
    kept: list[str] = []
    stride, index = 1, 0
    for text in texts:
        for start in range(0, len(text), _PART_CHARACTERS):
            if index % stride == 0:
                kept.append(well_formed(text[start : start + _PART_CHARACTERS]))
            index += 1
            if len(kept) * _PART_CHARACTERS > SAMPLE_CHARACTERS_MAX:
                kept, stride = kept[::2], stride * 2
    return kept
