"""What a network fixes about its model: the sizes of the transformer, and how it is trained.

Both are frozen, validated on construction, and written into the genesis by `to_dict`: integers, booleans and strings
only (a decimal stays a string), so that their canonical JSON is the same on every machine. No torch here.

For editors: a new field comes with a default that changes nothing and is marked `fields.later`. A document holds such a field
only where it differs from its default, so that an older genesis stays readable, canonical, and the same network.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from model import fields, limits
from model.errors import ConfigError

_FILE_HINT: Final = 'a size is tiny, small, base, 1b, 8b, one of these with -moe, or a JSON file such as {"width": 128, "layers": 4, ...}'
_TRAINING_HINT: Final = 'training is a JSON file such as {"optimizer": "lion", "inner_rate": "0.0003"}'
_MOMENTUM_HINT: Final = "for example momentum_numerator 7, momentum_shift 3 (0.875)"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which decoder: today's default is Llama's, over bytes. The fields of a `--size` JSON file are these."""

    width: int
    layers: int
    heads: int
    key_value_heads: int  # fewer than heads: grouped queries; as many: the usual multi-head attention
    feed_forward: int  # width of the hidden layer; with experts, of each of them
    context: int
    rope_base: int = 10_000
    norm_epsilon: str = "0.00001"
    initial_gain: int = 1  # of the norms before a layer; model/initial.py says what it is good for
    vocabulary: int = fields.later(limits.VOCABULARY)
    head_dim: int = fields.later(0)  # features of a head; 0: width / heads
    tied_head: bool = fields.later(True)  # the embedding is the output projection, too
    norm: str = fields.later("rms")
    activation: str = fields.later("swiglu")
    dropout: str = fields.later("0")  # of the embedding, the attention weights, and what each half of a layer adds
    # model/positions.py; rope_factor > 1 is Llama 3's scaling, whose other three numbers follow
    positions: str = fields.later("rope")
    rope_factor: int = fields.later(1)
    rope_low_frequency: int = fields.later(1)
    rope_high_frequency: int = fields.later(4)
    rope_original_context: int = fields.later(8192)
    # model/patterns.py
    attention: str = fields.later("full")
    window: int = fields.later(0)  # how many tokens a token sees, itself included
    sparse_block: int = fields.later(64)  # tokens of a block; a block sees the sparse_local last ones, itself included,
    sparse_local: int = fields.later(16)  # and before these the last of every sparse_stride
    sparse_stride: int = fields.later(8)
    attention_sinks: bool = fields.later(False)  # model/sinks.py: a learned logit for each head
    # model/moe.py
    experts: int = fields.later(0)  # 0: one feed-forward layer for all tokens
    experts_per_token: int = fields.later(2)
    shared_experts: int = fields.later(0)  # that every token meets as well
    normalize_top_k: bool = fields.later(True)  # the weights of a token's experts add up to one
    balance_loss: str = fields.later("0.01")  # coefficients of the two losses that only the routers see
    router_z_loss: str = fields.later("0.001")
    # What backward computes again instead of keeping. It changes no result: a node may put its own in place of this.
    checkpointing: str = fields.later("none")

    def __post_init__(self) -> None:
        fields.check_types(self)
        fields.between("width", self.width, 8, limits.WIDTH_MAX)
        fields.between("layers", self.layers, 1, limits.LAYERS_MAX)
        fields.between("heads", self.heads, 1, limits.HEADS_MAX)
        fields.between("key_value_heads", self.key_value_heads, 1, self.heads)
        fields.between("feed_forward", self.feed_forward, 8, limits.FEED_FORWARD_MAX)
        fields.between("context", self.context, 8, limits.CONTEXT_MAX)
        fields.between("initial_gain", self.initial_gain, 1, limits.INITIAL_GAIN_MAX)
        fields.between("vocabulary", self.vocabulary, 2, limits.VOCABULARY_MAX)
        fields.decimal_between("norm_epsilon", self.norm_epsilon, "0.000000001", "0.01")
        fields.decimal_between("dropout", self.dropout, "0", "0.9")
        fields.one_of("norm", self.norm, NORMS)
        fields.one_of("activation", self.activation, ACTIVATIONS)
        fields.one_of("checkpointing", self.checkpointing, CHECKPOINTINGS)
        fields.between("head_dim", self.head_dim, 0, limits.WIDTH_MAX)
        if self.width % self.heads or self.head_size % 2:
            raise ConfigError("width must be heads times an even head size", "for example width 128 with 4 heads")
        if self.heads % self.key_value_heads:
            raise ConfigError(
                "heads must be a multiple of key_value_heads", "for example 4 heads and 2 key_value_heads"
            )
        self._check_positions()
        self._check_attention()
        self._check_experts()
        self._check_nothing_is_idle()
        if self.parameters > limits.PARAMETERS_MAX:
            raise ConfigError(
                f"a model of {self.parameters} parameters, at most {limits.PARAMETERS_MAX} are allowed",
                "a smaller width, or fewer layers or experts",
            )

    def _check_positions(self) -> None:
        fields.one_of("positions", self.positions, POSITIONS)
        if self.positions == "sinusoidal" and self.width % 2:
            raise ConfigError(
                f"sinusoidal positions, and a width of {self.width}", "an even width: waves come in pairs"
            )
        fields.between("rope_base", self.rope_base, 2, limits.ROPE_BASE_MAX)
        fields.between("rope_factor", self.rope_factor, 1, 1024)
        fields.between("rope_low_frequency", self.rope_low_frequency, 1, 1024)
        fields.between("rope_high_frequency", self.rope_high_frequency, self.rope_low_frequency + 1, 2048)
        fields.between("rope_original_context", self.rope_original_context, 8, limits.CONTEXT_MAX)

    def _check_attention(self) -> None:
        fields.one_of("attention", self.attention, ATTENTIONS)
        fields.between("window", self.window, int(self.attention == "window"), self.context)
        fields.between("sparse_block", self.sparse_block, 1, limits.CONTEXT_MAX)
        fields.between("sparse_local", self.sparse_local, 1, limits.CONTEXT_MAX)
        fields.between("sparse_stride", self.sparse_stride, 1, limits.CONTEXT_MAX)

    def _check_experts(self) -> None:
        fields.between("experts", self.experts, 0, limits.EXPERTS_MAX)
        fields.between("experts_per_token", self.experts_per_token, 1, self.experts or limits.EXPERTS_MAX)
        fields.between("shared_experts", self.shared_experts, 0, limits.FEED_FORWARD_MAX // self.feed_forward)
        fields.decimal_between("balance_loss", self.balance_loss, "0", "10")
        fields.decimal_between("router_z_loss", self.router_z_loss, "0", "10")
        if self.experts and self.activation != "swiglu":
            raise ConfigError(f"experts are swiglu, not {self.activation}", "leave activation out")
        if self.experts > 1 and self.experts_per_token == 1 and self.normalize_top_k:
            raise ConfigError(
                "with one expert a token, a normalized weight is always one and teaches the router nothing",
                "normalize_top_k false, as in the Switch Transformer",
            )

    def _check_nothing_is_idle(self) -> None:
        scaling = ("rope_low_frequency", "rope_high_frequency", "rope_original_context")
        routing = ("experts_per_token", "shared_experts", "normalize_top_k", "balance_loss", "router_z_loss")
        sparse = ("sparse_block", "sparse_local", "sparse_stride")
        fields.refuse_idle(self, self.positions == "rope", "positions rope", ("rope_base", "rope_factor"))
        fields.refuse_idle(self, self.rope_factor > 1, "a rope_factor", scaling)
        fields.refuse_idle(self, self.attention == "window", "attention window", ("window",))
        fields.refuse_idle(self, self.attention == "block-sparse", "attention block-sparse", sparse)
        fields.refuse_idle(self, self.experts > 0, "experts", routing)

    @property
    def head_size(self) -> int:
        return self.head_dim or self.width // self.heads

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def key_value_width(self) -> int:
        return self.key_value_heads * self.head_size

    @property
    def parameters(self) -> int:
        """Values that are learned, without padding (a tied embedding counts once)."""
        return self._count(self.experts)

    @property
    def active_parameters(self) -> int:
        """Those that one token meets: all of them, but of the experts only the token's own."""
        return self._count(min(self.experts, self.experts_per_token))

    def _count(self, experts: int) -> int:
        norm = self.width * (2 if self.norm == "layer" else 1)
        attention = 2 * self.width * (self.query_width + self.key_value_width) + self.heads * self.attention_sinks
        feed_forward = (3 if self.activation == "swiglu" else 2) * self.width * self.feed_forward
        if self.experts:
            feed_forward = feed_forward * (experts + self.shared_experts) + self.experts * self.width
        rows = self.vocabulary * (1 if self.tied_head else 2) + self.context * (self.positions == "learned")
        return rows * self.width + self.layers * (attention + feed_forward + 2 * norm) + norm

    def to_dict(self) -> dict[str, int | str | bool]:
        return fields.to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Raises ConfigError for a missing, an unknown or an out-of-range field."""
        return cls(**fields.strict_fields(cls, values))  # type: ignore[arg-type]  # __post_init__ checks every type

    @classmethod
    def named(cls, size: str, *, moe: bool = False, vocabulary: int = limits.VOCABULARY) -> "ModelConfig":
        """A preset by name, with `moe` its variant with experts, or the JSON file at that path. Raises ConfigError.

        `vocabulary`: of the tokenizer. A preset has it, and a file that names none; above that of bytes, filled up to a
        multiple of VOCABULARY_STEP, as matrix products like it.
        """
        if moe and size not in _DENSE:
            raise ConfigError(f"no variant of {size} with experts", f"known: {', '.join(_DENSE)}; a file names its own")
        filled = vocabulary
        if vocabulary != limits.VOCABULARY:
            filled = -(-vocabulary // limits.VOCABULARY_STEP) * limits.VOCABULARY_STEP
        name = f"{size}-moe" if moe else size
        if name in PRESETS:
            return dataclasses.replace(PRESETS[name], vocabulary=filled)
        return fields.from_file(cls, Path(size), "size", _FILE_HINT, {"vocabulary": filled})


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
    optimizer: str = fields.later("adamw")  # momentum of sgd: beta_first; lion's two betas: these two
    sharpness_radius: str = fields.later("0")  # of sharpness-aware minimization around the optimizer; 0: none
    schedule: str = fields.later("constant")  # of the inner rate after the warm-up, in steps of the network
    schedule_steps: int = fields.later(0)  # cosine, wsd: after so many steps the rate stays at its floor
    decay_steps: int = fields.later(0)  # wsd: the last of them, over which it falls
    rate_floor: str = fields.later("0.1")  # cosine, wsd: the share of inner_rate at which the rate ends
    quantization: str = fields.later("none")  # int8: learn for a model whose matrices are rounded to eight bits

    def __post_init__(self) -> None:
        fields.check_types(self)
        fields.between("local_steps", self.local_steps, 1, limits.LOCAL_STEPS_MAX)
        fields.between("batch", self.batch, 1, limits.BATCH_MAX)
        fields.between("sequence", self.sequence, 8, limits.CONTEXT_MAX)
        fields.between("warmup_steps", self.warmup_steps, 0, limits.WARMUP_STEPS_MAX)
        fields.decimal_between("inner_rate", self.inner_rate, "0.0000001", "1")
        fields.decimal_between("clip", self.clip, "0.001", "1000")
        fields.decimal_between("beta_first", self.beta_first, "0", "0.9999")
        fields.decimal_between("beta_second", self.beta_second, "0", "0.99999")
        fields.decimal_between("weight_decay", self.weight_decay, "0", "1")
        fields.between("outer_rate_numerator", self.outer_rate_numerator, 1, limits.RATE_MAX)
        fields.between("outer_rate_denominator", self.outer_rate_denominator, 1, limits.RATE_MAX)
        fields.between("momentum_shift", self.momentum_shift, 0, limits.MOMENTUM_SHIFT_MAX)
        if not 0 <= self.momentum_numerator < 1 << self.momentum_shift:
            raise ConfigError(
                f"a momentum of {self.momentum_numerator} / 2^{self.momentum_shift}, allowed is less than one",
                _MOMENTUM_HINT,
            )
        if self.nesterov and not self.momentum_numerator:
            raise ConfigError("nesterov needs a momentum", _MOMENTUM_HINT)
        fields.one_of("codec", self.codec, CODECS)
        fields.one_of("optimizer", self.optimizer, OPTIMIZERS)
        fields.one_of("quantization", self.quantization, QUANTIZATIONS)
        fields.decimal_between("sharpness_radius", self.sharpness_radius, "0", "10")
        self._check_schedule()
        fields.refuse_idle(self, self.optimizer != "sgd", "optimizer adamw or lion", ("beta_second",))
        fields.refuse_idle(self, self.schedule != "constant", "a schedule", ("rate_floor",))

    def _check_schedule(self) -> None:
        fields.one_of("schedule", self.schedule, SCHEDULES)
        fields.between("schedule_steps", self.schedule_steps, 0, limits.SCHEDULE_STEPS_MAX)
        fields.between("decay_steps", self.decay_steps, 0, self.schedule_steps)
        fields.decimal_between("rate_floor", self.rate_floor, "0", "1")
        if (self.schedule != "constant") != (self.schedule_steps > 0):
            raise ConfigError(
                f"schedule is {self.schedule} and schedule_steps is {self.schedule_steps}",
                'a schedule with an end needs its steps, for example "schedule": "cosine", "schedule_steps": 20000',
            )
        if 0 < self.schedule_steps <= self.warmup_steps:
            raise ConfigError(
                f"a schedule of {self.schedule_steps} steps, and a warm-up of {self.warmup_steps}",
                "more schedule_steps, or fewer warmup_steps",
            )
        if (self.schedule == "wsd") != (self.decay_steps > 0):
            raise ConfigError(
                f"schedule is {self.schedule} and decay_steps is {self.decay_steps}",
                "wsd, and no other schedule, needs the steps over which the rate falls: a tenth of schedule_steps, say",
            )

    @property
    def tokens_per_round(self) -> int:
        return self.local_steps * self.batch * self.sequence

    @classmethod
    def from_file(cls, path: Path) -> "TrainingConfig":
        """The JSON file at that path; what it does not name stays at its default. Raises ConfigError."""
        return fields.from_file(cls, path, "training", _TRAINING_HINT)

    def to_dict(self) -> dict[str, int | str | bool]:
        return fields.to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Raises ConfigError for a missing, an unknown or an out-of-range field."""
        return cls(**fields.strict_fields(cls, values))  # type: ignore[arg-type]  # __post_init__ checks every type


def check_together(config: ModelConfig, training: TrainingConfig, *, vocabulary: int = limits.VOCABULARY) -> None:
    """Raises ConfigError where this model cannot be trained so. For founders: a genesis holds both.

    `vocabulary`: of the tokenizer, by default that of bytes.
    """
    if training.sequence > config.context:
        raise ConfigError(
            f"the model's context is {config.context}, but it is trained on {training.sequence} tokens at a time",
            f"a size needs a context of at least {training.sequence}",
        )
    if config.vocabulary < vocabulary:
        words = "the text is bytes" if vocabulary == limits.VOCABULARY else f"the tokenizer has {vocabulary} words"
        raise ConfigError(
            f"a vocabulary of {config.vocabulary}, but {words}",
            f"a size needs a vocabulary of at least {vocabulary}",
        )


NORMS: Final = ("rms", "layer")  # model/norms.py
ACTIVATIONS: Final = ("swiglu", "gelu", "relu")  # model/feed_forward.py
POSITIONS: Final = ("rope", "learned", "sinusoidal")  # model/positions.py
ATTENTIONS: Final = ("full", "window", "block-sparse")  # model/patterns.py
CHECKPOINTINGS: Final = ("none", "attention", "feed-forward", "layer")  # model/checkpointing.py
CODECS: Final[Mapping[str, int]] = {"dense-int8": 1}  # name -> the id in a contribution and in a payload's header
OPTIMIZERS: Final = ("adamw", "sgd", "lion")  # model/optimizers/
SCHEDULES: Final = ("constant", "cosine", "wsd")  # model/schedule.py
QUANTIZATIONS: Final = ("none", "int8")  # model/quantization.py


# Each entry validates itself as the module is imported.
_DENSE: Final = {
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
    # with the words of Llama 3 these have the parameters of Llama 3.2 1B and Llama 3 8B
    "1b": ModelConfig(
        width=2048, layers=16, heads=32, key_value_heads=8, feed_forward=8192, context=2048, rope_base=500_000
    ),
    "8b": ModelConfig(
        width=4096,
        layers=32,
        heads=32,
        key_value_heads=8,
        feed_forward=14336,
        context=8192,
        rope_base=500_000,
        tied_head=False,
    ),
}

# Eight experts of half the width, two for each token: the work of the preset, with four times its feed-forward layers.
_SPARSE: Final = {
    f"{name}-moe": dataclasses.replace(config, feed_forward=config.feed_forward // 2, experts=8)
    for name, config in _DENSE.items()
}
PRESETS: Final[Mapping[str, ModelConfig]] = _DENSE | _SPARSE
