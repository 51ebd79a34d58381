"""Which range of the flat buffer each tensor of a folder is.

Of a decoder without experts the tensors are those of `Layout`. Of one with experts a folder has Mixtral's own names, a
tensor for each expert and matrix, which lie one behind the other in ours (transformers joins them when it loads them);
newer folders may also hold them joined, under the names of `Layout`.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod

from model.config import ModelConfig
from model.layout import Layout, TensorPlace


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of a folder: values [offset, offset + count) of the flat buffer."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        return prod(self.shape)


def pieces(config: ModelConfig, *, joined: bool = False) -> tuple[Piece, ...]:
    """All of a folder, in the order of the buffer. `joined`: with all experts of a layer in two tensors."""
    found: list[Piece] = []
    for place in Layout.of(config).tensors:
        if config.experts and not joined and ".mlp." in place.name:
            found.extend(_of_experts(config, place))
        else:
            found.append(Piece(place.name, place.shape, place.offset))
    return tuple(found)


def are_joined(names: Collection[str]) -> bool:
    """Whether a folder with these tensors has its experts joined."""
    return any(name.endswith(".experts.gate_up_proj") for name in names)


def _of_experts(config: ModelConfig, place: TensorPlace) -> Iterator[Piece]:
    """Mixtral's names (Jiang et al. 2024): w1 is the gate, w3 goes up, w2 down."""
    layer, _, part = place.name.partition(".mlp.")
    layer = f"{layer}.block_sparse_moe"
    if part == "gate.weight":  # the router
        yield Piece(f"{layer}.{part}", place.shape, place.offset)
        return
    matrices = ("w1", "w3") if part == "experts.gate_up_proj" else ("w2",)
    shape = (place.shape[1] // len(matrices), place.shape[2])
    for expert in range(config.experts):
        for index, matrix in enumerate(matrices):
            offset = place.offset + (expert * len(matrices) + index) * prod(shape)
            yield Piece(f"{layer}.experts.{expert}.{matrix}.weight", shape, offset)
