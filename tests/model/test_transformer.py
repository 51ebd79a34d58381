"""The decoder against a naive one: loops and definitions, in float64, written from the papers."""

import math

import pytest
import torch
from torch import Tensor

from cuda_ext import swiglu
from model.attention import Rotary
from model.config import PRESETS, ModelConfig
from model.flat import FlatParameters
from model.initial import initial_parameters
from model.layout import Layout
from model.transformer import Transformer

SMALL = ModelConfig(width=24, layers=2, heads=6, key_value_heads=2, feed_forward=40, context=16)


def build(config: ModelConfig, seed: int = 1) -> tuple[Transformer, FlatParameters]:
    flat = FlatParameters(Layout.of(config), torch.device("cpu"))
    with torch.no_grad():
        flat.values.copy_(torch.tensor(initial_parameters(config, seed)))
        for name, weight in flat.weights.items():  # gains of one would hide a forgotten gain
            if weight.dim() == 1:
                weight.mul_(1 + 0.1 * torch.sin(torch.arange(len(weight)) + len(name)))
    return Transformer(config, flat.weights), flat


def naive_logits(config: ModelConfig, weights: dict[str, Tensor], tokens: list[int]) -> Tensor:
    """Logits (time, 256) for one sequence, position by position and head by head."""

    def norm(x: Tensor, gain: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean() + float(config.norm_epsilon)) * gain

    def rotated(x: Tensor, position: int) -> Tensor:
        half = config.head_size // 2
        turned = torch.empty_like(x)
        for i in range(half):
            angle = position * config.rope_base ** (-2 * i / config.head_size)
            pair = complex(x[i], x[i + half]) * complex(math.cos(angle), math.sin(angle))
            turned[i], turned[i + half] = pair.real, pair.imag
        return turned

    stream = [weights["model.embed_tokens.weight"][token] for token in tokens]
    for index in range(config.layers):
        layer = {name.split(f"layers.{index}.")[1]: w for name, w in weights.items() if f"layers.{index}." in name}
        normed = [norm(x, layer["input_layernorm.weight"]) for x in stream]
        for position in reversed(range(len(tokens))):
            heads = []
            for head in range(config.heads):
                group = head // (config.heads // config.key_value_heads)
                rows = slice(head * config.head_size, (head + 1) * config.head_size)
                shared = slice(group * config.head_size, (group + 1) * config.head_size)
                query = rotated(layer["self_attn.q_proj.weight"][rows] @ normed[position], position)
                keys = [rotated(layer["self_attn.k_proj.weight"][shared] @ normed[t], t) for t in range(position + 1)]
                values = [layer["self_attn.v_proj.weight"][shared] @ normed[t] for t in range(position + 1)]
                scores = torch.stack([query @ key for key in keys]) / math.sqrt(config.head_size)
                share = torch.exp(scores - scores.max())
                heads.append(sum(s * v for s, v in zip(share / share.sum(), values, strict=True)))
            stream[position] = stream[position] + layer["self_attn.o_proj.weight"] @ torch.cat(heads)
        for position, x in enumerate(stream):
            y = norm(x, layer["post_attention_layernorm.weight"])
            gate, up = layer["mlp.gate_proj.weight"] @ y, layer["mlp.up_proj.weight"] @ y
            stream[position] = x + layer["mlp.down_proj.weight"] @ (gate / (1 + torch.exp(-gate)) * up)
    final = [norm(x, weights["model.norm.weight"]) for x in stream]
    return torch.stack([weights["model.embed_tokens.weight"] @ x for x in final])


@pytest.mark.parametrize("key_value_heads", [1, 2, 6])
def test_the_decoder_is_the_naive_one(key_value_heads: int) -> None:
    config = ModelConfig(
        width=24, layers=2, heads=6, key_value_heads=key_value_heads, feed_forward=40, context=16, rope_base=50
    )
    model, flat = build(config)
    tokens = [104, 101, 108, 108, 111, 0, 255, 10, 32]
    weights = {name: weight.detach().double() for name, weight in flat.weights.items()}
    expected = naive_logits(config, weights, tokens)
    with torch.no_grad():
        logits = model(torch.tensor([tokens, tokens[::-1]]))[0]
    assert torch.allclose(logits.double(), expected, atol=2e-5, rtol=1e-4)


def test_no_position_sees_the_future() -> None:
    model, _ = build(SMALL)
    tokens = torch.arange(16).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 9] = 200
    with torch.no_grad():
        before, after = model(tokens)[0], model(changed)[0]
    assert torch.equal(before[:9], after[:9]) and not torch.allclose(before[9:], after[9:])


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    rotary = Rotary(SMALL).double()
    rotary.cosine, rotary.sine = rotary.cosine.double(), rotary.sine.double()
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(SMALL.head_size, dtype=torch.float64, generator=generator) for _ in range(2))
    queries, keys = (rotary(x.expand(1, 1, 16, -1))[0, 0] for x in (query, key))
    scores = queries @ keys.T
    for distance in range(8):
        assert torch.allclose(scores.diagonal(-distance), scores[distance, 0], atol=1e-5)
    assert torch.allclose(queries.norm(dim=-1), query.norm(), atol=1e-5), "a rotation keeps lengths"


def test_swiglu_gradients_are_the_true_ones() -> None:
    generator = torch.Generator().manual_seed(2)
    gate, up = (
        torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True).mul(3).detach().requires_grad_()
        for _ in range(2)
    )
    assert torch.autograd.gradcheck(swiglu, (gate, up))
    assert torch.equal(swiglu(gate, up), torch.nn.functional.silu(gate) * up)


def test_swiglu_keeps_its_inputs_and_leaves_them_alone() -> None:
    gate, up = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    before = gate.detach().clone(), up.detach().clone()
    result = swiglu(gate, up)
    result.backward(torch.ones_like(result).expand_as(result))
    assert torch.equal(gate.detach(), before[0]) and torch.equal(up.detach(), before[1])
    swiglu(gate, up).sum().backward()  # an expanded gradient, of stride zero


def test_modules_view_the_flat_buffers() -> None:
    model, flat = build(SMALL)
    tokens = torch.arange(34).view(2, 17)
    model.loss(tokens).backward()
    layout = flat.layout
    for place in layout.tensors:
        weight = flat.weights[place.name]
        assert weight.grad is not None and weight.grad.abs().sum() > 0, place.name
        assert weight.data_ptr() == flat.values.data_ptr() + 4 * place.offset
        assert weight.grad.data_ptr() == flat.gradient.data_ptr() + 4 * place.offset
        assert tuple(weight.shape) == place.shape
    assert not any(flat.gradient[padding].any() for padding in layout.padding)
    gradient = flat.gradient.clone()
    model.loss(tokens).backward()
    assert torch.allclose(flat.gradient, 2 * gradient), "backward adds in place"


def test_every_parameter_of_the_modules_is_in_the_buffer() -> None:
    config = PRESETS["tiny"]
    model, flat = build(config)
    assert sum(weight.numel() for weight in model.parameters()) == config.parameters
    assert set(map(id, model.parameters())) == set(map(id, flat.weights.values()))


def test_a_new_model_knows_nothing() -> None:
    config = PRESETS["tiny"]
    flat = FlatParameters(Layout.of(config), torch.device("cpu"))
    with torch.no_grad():
        flat.values.copy_(torch.tensor(initial_parameters(config, 0)))
        loss = Transformer(config, flat.weights).loss(torch.randint(0, 256, (8, 129))).item()
    assert loss == pytest.approx(math.log(256), rel=0.2)
