"""What a network fixes about its model: the sizes of the transformer, and how it is trained.

Both are frozen, validated on construction, and written into the genesis by `to_dict`: integers, booleans and strings
only (a decimal stays a string), so that their canonical JSON is the same on every machine. No torch here.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final, Self

from model import limits
from model.errors import ConfigError

_FILE_HINT: Final = 'a size is tiny, small, base, 1b, 8b, or a JSON file such as {"width": 128, "layers": 4, ...}'


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The sizes of a Llama-layout decoder over bytes. The fields of a `--size` JSON file are these."""

    width: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    context: int
    rope_base: int = 10_000
    norm_epsilon: str = "0.00001"
    initial_gain: int = 1  # of the norms before a layer; model/initial.py says what it is good for

    def __post_init__(self) -> None:
        _check_types(self)
        _between("width", self.width, 8, limits.WIDTH_MAX)
        _between("layers", self.layers, 1, limits.LAYERS_MAX)
        _between("heads", self.heads, 1, limits.HEADS_MAX)
        _between("key_value_heads", self.key_value_heads, 1, self.heads)
        _between("feed_forward", self.feed_forward, 8, limits.FEED_FORWARD_MAX)
        _between("context", self.context, 8, limits.CONTEXT_MAX)
        _between("rope_base", self.rope_base, 2, limits.ROPE_BASE_MAX)
        _between("initial_gain", self.initial_gain, 1, limits.INITIAL_GAIN_MAX)
        _decimal_between("norm_epsilon", self.norm_epsilon, "0.000000001", "0.01")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError("width must be heads times an even head size", "for example width 128 with 4 heads")
        if self.heads % self.key_value_heads:
            raise ConfigError(
                "heads must be a multiple of key_value_heads", "for example 4 heads and 2 key_value_heads"
            )

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def key_value_width(self) -> int:
        return self.key_value_heads * self.head_size

    @property
    def parameters(self) -> int:
        """Values that are learned, without padding (the tied embedding counts once)."""
        attention = 2 * self.width * self.width + 2 * self.width * self.key_value_width
        layer = attention + 3 * self.width * self.feed_forward + 2 * self.width
        return limits.VOCABULARY * self.width + self.layers * layer + self.width

    def to_dict(self) -> dict[str, int | str | bool]:
        return _to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Raises ConfigError for a missing, an unknown or an out-of-range field."""
        return cls(**_strict_fields(cls, values))  # type: ignore[arg-type]  # __post_init__ checks every type

    @classmethod
    def named(cls, size: str) -> "ModelConfig":
        """A preset by name, or the JSON file at that path. Raises ConfigError."""
        return PRESETS[size] if size in PRESETS else _from_file(Path(size))


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How every node of a network trains, and how the contributions become one outer step.

    Decimals are strings and enter only free-form learning; everything that replicas must agree on is an integer.
    """

    local_steps: int = 10
    batch: int = 8
    sequence: int = 128
    inner_rate: str = "0.001"
    warmup_steps: int = 20
    clip: str = "1.0"
    beta_first: str = "0.9"
    beta_second: str = "0.95"
    weight_decay: str = "0.1"
    outer_rate_numerator: int = 1
    outer_rate_denominator: int = 1
    momentum_numerator: int = 0
    momentum_shift: int = 0
    nesterov: bool = False
    codec: str = "dense-int8"

    def __post_init__(self) -> None:
        _check_types(self)
        _between("local_steps", self.local_steps, 1, limits.LOCAL_STEPS_MAX)
        _between("batch", self.batch, 1, limits.BATCH_MAX)
        _between("sequence", self.sequence, 8, limits.CONTEXT_MAX)
        _between("warmup_steps", self.warmup_steps, 0, limits.WARMUP_STEPS_MAX)
        _decimal_between("inner_rate", self.inner_rate, "0.0000001", "1")
        _decimal_between("clip", self.clip, "0.001", "1000")
        _decimal_between("beta_first", self.beta_first, "0", "0.9999")
        _decimal_between("beta_second", self.beta_second, "0", "0.99999")
        _decimal_between("weight_decay", self.weight_decay, "0", "1")
        _between("outer_rate_numerator", self.outer_rate_numerator, 1, limits.RATE_MAX)
        _between("outer_rate_denominator", self.outer_rate_denominator, 1, limits.RATE_MAX)
        _between("momentum_shift", self.momentum_shift, 0, limits.MOMENTUM_SHIFT_MAX)
        _between("momentum_numerator", self.momentum_numerator, 0, (1 << self.momentum_shift) - 1)
        if self.nesterov and not self.momentum_numerator:
            raise ConfigError("nesterov needs a momentum", "for example momentum_numerator 7, momentum_shift 3 (0.875)")
        if self.codec not in CODECS:
            raise ConfigError(f"unknown codec {self.codec!r}", f"known: {', '.join(CODECS)}")

    @property
    def tokens_per_round(self) -> int:
        return self.local_steps * self.batch * self.sequence

    def to_dict(self) -> dict[str, int | str | bool]:
        return _to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Raises ConfigError for a missing, an unknown or an out-of-range field."""
        return cls(**_strict_fields(cls, values))  # type: ignore[arg-type]  # __post_init__ checks every type


def check_together(config: ModelConfig, training: TrainingConfig) -> None:
    """Raises ConfigError where this model cannot be trained so. For founders: a genesis holds both."""
    if training.sequence > config.context:
        raise ConfigError(
            f"the model's context is {config.context}, but it is trained on {training.sequence} bytes at a time",
            f"a size needs a context of at least {training.sequence}",
        )


CODECS: Final[Mapping[str, int]] = {"dense-int8": 1}  # name -> the id in a contribution and in a payload's header


def _from_file(path: Path) -> ModelConfig:
    try:
        with path.open("rb") as file:
            text = file.read(limits.CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"no size named {str(path)!r}, and no such file ({error.strerror})", _FILE_HINT) from None
    if len(text) > limits.CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: larger than {limits.CONFIG_BYTES_MAX} bytes", _FILE_HINT)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error})", _FILE_HINT) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a JSON object", _FILE_HINT)
    defaults = {field.name: field.default for field in fields(ModelConfig) if field.default is not MISSING}
    return ModelConfig.from_dict(defaults | values)


def _to_dict(config: ModelConfig | TrainingConfig) -> dict[str, int | str | bool]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


def _strict_fields(cls: type[ModelConfig] | type[TrainingConfig], values: Mapping[str, object]) -> dict[str, object]:
    known = [field.name for field in fields(cls)]
    if missing := [name for name in known if name not in values]:
        raise ConfigError(f"missing: {', '.join(missing)}", f"the fields are {', '.join(known)}")
    if unknown := sorted(str(name)[:40] for name in values if name not in known):
        raise ConfigError(f"unknown: {', '.join(unknown[:8])}", f"the fields are {', '.join(known)}")
    return dict(values)


def _check_types(config: ModelConfig | TrainingConfig) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        if type(value) is not field.type:  # exact, so that True is no integer
            raise ConfigError(f"{field.name} must be {getattr(field.type, '__name__', field.type)}, not {value!r:.40}")


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}, allowed are {low} to {high}")


def _decimal_between(name: str, value: str, low: str, high: str) -> None:
    try:
        allowed = len(value) <= 20 and Decimal(low) <= Decimal(value) <= Decimal(high)
    except InvalidOperation:
        allowed = False
    if not allowed:
        raise ConfigError(f"{name} is {value[:40]!r}, allowed are {low} to {high}", 'a decimal in a string, like "0.5"')


# Below the helpers, because each entry validates itself as the module is imported.
PRESETS: Final[Mapping[str, ModelConfig]] = {
    # docs/experiments.md has what was tried for tiny, and the figures
    "tiny": ModelConfig(
        width=128,
        layers=6,
        heads=4,
        key_value_heads=2,
        feed_forward=352,
        context=128,
        rope_base=100,
        initial_gain=4,
    ),
    "small": ModelConfig(width=384, layers=6, heads=6, key_value_heads=2, feed_forward=1024, context=256),
    "base": ModelConfig(width=768, layers=12, heads=12, key_value_heads=4, feed_forward=2048, context=1024),
    "1b": ModelConfig(width=2048, layers=16, heads=32, key_value_heads=8, feed_forward=8192, context=2048),
    "8b": ModelConfig(width=4096, layers=32, heads=32, key_value_heads=8, feed_forward=14336, context=8192),
}
