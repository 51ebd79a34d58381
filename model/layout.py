"""Where each tensor lies in the one flat buffer that the codec, the aggregate, the root and the snapshot see.

Names and shapes are those of Hugging Face's Llama checkpoints, so that an export renames nothing. Each tensor starts
on a chunk of 4,096 values; the values between a tensor's end and the next chunk are padding and stay zero for ever.
The order of the tensors is a consensus rule: the model root hashes the buffer as it lies. No torch here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from model.config import ModelConfig
from model.limits import CHUNK_VALUES, VOCABULARY


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
    width, key_value, hidden = config.width, config.key_value_width, config.feed_forward
    yield "model.embed_tokens.weight", (VOCABULARY, width)  # tied: also the output projection
    for index in range(config.layers):
        layer = f"model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", (width,)
        yield f"{layer}.self_attn.q_proj.weight", (width, width)
        yield f"{layer}.self_attn.k_proj.weight", (key_value, width)
        yield f"{layer}.self_attn.v_proj.weight", (key_value, width)
        yield f"{layer}.self_attn.o_proj.weight", (width, width)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
        yield f"{layer}.mlp.gate_proj.weight", (hidden, width)
        yield f"{layer}.mlp.up_proj.weight", (hidden, width)
        yield f"{layer}.mlp.down_proj.weight", (width, hidden)
    yield "model.norm.weight", (width,)
