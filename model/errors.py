"""The errors of the model library. All are ValueErrors: the caller handed over something that cannot be used.

A fault of our own (a broken invariant) is an AssertionError and is meant to be loud.
"""


class ModelError(ValueError):
    """Something that a person gave cannot be used: what is wrong, and a hint at what would work."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(ModelError):
    """A size, a training setting or a JSON file of either is out of bounds."""


class CorpusError(ModelError):
    """A text is missing, unreadable, empty, too small or too large."""


class TokenizerError(ModelError):
    """A tokenizer's file cannot be used, or the tokenizer has no word for a text."""


class GenerationError(ModelError):
    """A text cannot be generated as asked: a setting out of range, another tokenizer, a model without finite logits."""


class SnapshotError(ModelError):
    """A file of model or trainer state is missing, damaged, or belongs to another model."""


class InterchangeError(ModelError):
    """A folder of another program's cannot be read, or a model cannot be said in its terms."""


class PayloadError(ValueError):
    """A contribution's bytes break a rule of the codec. Stateless: every node refuses the same bytes."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NonFiniteError(ArithmeticError):
    """Training produced NaN or infinity, so there is nothing to contribute from this round."""
