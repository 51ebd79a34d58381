"""Where each tensor lies in the one flat buffer that the codec, the aggregate, the root and the snapshot see.

Names and shapes are those of transformers 5, so that an export renames nothing: Llama's and Mistral's, Mixtral's where
there are experts, and by their names elsewhere what these lack (DeepSeek's shared experts, gpt-oss's sinks, OPT's learned
positions, Nemotron's feed-forward layer without a gate). Each tensor starts on a chunk of 4,096 values; the values
between a tensor's end and the next chunk are padding and stay zero for ever.
The order of the tensors is a consensus rule: the model root hashes the buffer as it lies. No torch here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from model.config import ModelConfig
from model.limits import CHUNK_VALUES


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor: values [offset, offset + count) of the flat buffer; padding follows up to the next chunk."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Layout:
    tensors: tuple[TensorPlace, ...]

    @classmethod
    def of(cls, config: ModelConfig) -> "Layout":
        places: list[TensorPlace] = []
        offset = 0
        for name, shape in _tensors(config):
            places.append(TensorPlace(name, shape, offset))
            offset += _padded(places[-1].count)
        return cls(tuple(places))

    @cached_property
    def values(self) -> int:
        """Values in the buffer, padding included: a multiple of 4,096."""
        return self.tensors[-1].offset + _padded(self.tensors[-1].count)

    @property
    def chunks(self) -> int:
        return self.values // CHUNK_VALUES

    @cached_property
    def padding(self) -> tuple[slice, ...]:
        """The ranges of the buffer that belong to no tensor, in order, empty ones left out."""
        ranges = ((place.offset + place.count, place.offset + _padded(place.count)) for place in self.tensors)
        return tuple(slice(start, stop) for start, stop in ranges if start < stop)

    def locate(self, value: int) -> str:
        """The name of the tensor that holds this index of the buffer (for reports of where replicas differ)."""
        return next(place.name for place in reversed(self.tensors) if place.offset <= value)


def _padded(count: int) -> int:
    return -(-count // CHUNK_VALUES) * CHUNK_VALUES


def _tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, query, key_value = config.width, config.query_width, config.key_value_width
    yield "model.embed_tokens.weight", (config.vocabulary, width)  # when tied: also the output projection
    if config.positions == "learned":
        yield "model.embed_positions.weight", (config.context, width)
    for index in range(config.layers):
        layer = f"model.layers.{index}"
        yield from _norm(config, f"{layer}.input_layernorm")
        yield f"{layer}.self_attn.q_proj.weight", (query, width)
        yield f"{layer}.self_attn.k_proj.weight", (key_value, width)
        yield f"{layer}.self_attn.v_proj.weight", (key_value, width)
        yield f"{layer}.self_attn.o_proj.weight", (width, query)
        if config.attention_sinks:
            yield f"{layer}.self_attn.sinks", (config.heads,)
        yield from _norm(config, f"{layer}.post_attention_layernorm")
        if config.experts:
            yield from _experts(config, f"{layer}.mlp")
        else:
            yield from _feed_forward(config, f"{layer}.mlp", config.feed_forward)
    yield from _norm(config, "model.norm")
    if not config.tied_head:
        yield "lm_head.weight", (config.vocabulary, width)


def _norm(config: ModelConfig, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (config.width,)
    if config.norm == "layer":
        yield f"{name}.bias", (config.width,)


def _feed_forward(config: ModelConfig, name: str, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if config.activation == "swiglu":
        yield f"{name}.gate_proj.weight", (hidden, config.width)
    yield f"{name}.up_proj.weight", (hidden, config.width)
    yield f"{name}.down_proj.weight", (config.width, hidden)


def _experts(config: ModelConfig, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """All experts of a layer are two tensors, so that each is one grouped matrix product.

    These are the names and shapes of transformers 5 in memory, and it loads them as they are. A file that it saves has
    Mixtral's own (`block_sparse_moe.experts.N.w1.weight` and so on), a tensor for each expert, which it joins to these.
    """
    count, width, hidden = config.experts, config.width, config.feed_forward
    yield f"{name}.gate.weight", (count, width)  # the router
    yield f"{name}.experts.gate_up_proj", (count, 2 * hidden, width)  # of each expert the gate first, then up
    yield f"{name}.experts.down_proj", (count, width, hidden)
    if config.shared_experts:  # side by side they are one wider layer
        yield from _feed_forward(config, f"{name}.shared_experts", config.shared_experts * hidden)
