"""Small decoders to test, and a naive one to compare them with: loops and definitions, in float64, written from the papers."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import ModelConfig
from model.flat import FlatParameters
from model.initial import initial_parameters
from model.layout import Layout
from model.transformer import Transformer

SMALL = {"width": 24, "layers": 2, "heads": 6, "key_value_heads": 2, "feed_forward": 40, "context": 16, "rope_base": 50}
# Every choice that changes a result, some together. `pytest -k` finds them by these names.
VARIANTS: dict[str, dict[str, int | str | bool]] = {
    "llama": {},
    "multi-head": {"key_value_heads": 6},
    "one-key-head": {"key_value_heads": 1},
    "wide-heads": {"head_dim": 10},
    "untied": {"tied_head": False, "vocabulary": 259},
    "rope-scaled": {"rope_factor": 8, "rope_original_context": 40},
    "learned-positions": {"positions": "learned", "rope_base": 10_000},
    "sinusoidal-positions": {"positions": "sinusoidal", "rope_base": 10_000},
    "layer-norm-gelu": {"norm": "layer", "activation": "gelu"},
    "relu": {"activation": "relu"},
    "window": {"attention": "window", "window": 3},
    "block-sparse": {"attention": "block-sparse", "sparse_block": 2, "sparse_local": 1, "sparse_stride": 2},
    "sinks": {"attention_sinks": True},
    "window-sinks": {"attention": "window", "window": 3, "attention_sinks": True},
    "experts": {"experts": 5, "experts_per_token": 2},
    "experts-odd": {"experts": 5, "experts_per_token": 3, "feed_forward": 13, "shared_experts": 2},
    "experts-all": {"experts": 3, "experts_per_token": 3, "normalize_top_k": False},
    "switch": {"experts": 4, "experts_per_token": 1, "normalize_top_k": False},
}


def variant(name: str, **change: int | str | bool) -> ModelConfig:
    return ModelConfig(**(SMALL | VARIANTS[name] | change))  # type: ignore[arg-type]


def build(config: ModelConfig, seed: int = 1, *, device: str = "cpu") -> tuple[Transformer, FlatParameters]:
    """With M(0), but gains, biases and sinks moved: at one and zero they would hide being forgotten."""
    flat = FlatParameters(Layout.of(config), torch.device(device))
    with torch.no_grad():
        flat.values.copy_(torch.tensor(initial_parameters(config, seed)))
        for name, weight in flat.weights.items():
            if weight.dim() == 1:
                weight.add_(0.3 * torch.sin(torch.arange(len(weight), device=device) + len(name)))
    return Transformer(config, flat.weights).to(device), flat


def windows(config: ModelConfig, batch: int, time: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.vocabulary, (batch, time + 1), generator=generator)


def naive_logits(config: ModelConfig, weights: Mapping[str, Tensor], tokens: list[int]) -> Tensor:
    """Logits (time, vocabulary) for one sequence, position by position and head by head. `weights` in float64."""
    stream = []
    for position, token in enumerate(tokens):
        x = weights["model.embed_tokens.weight"][token]
        if config.positions == "learned":
            x = x + weights["model.embed_positions.weight"][position]
        if config.positions == "sinusoidal":
            x = x + _waves(config, position)
        stream.append(x)
    for index in range(config.layers):
        layer = {name.split(f"layers.{index}.")[1]: w for name, w in weights.items() if f"layers.{index}." in name}
        normed = [_norm(config, layer, "input_layernorm", x) for x in stream]
        mixed = [_attention(config, layer, normed, position) for position in range(len(tokens))]
        stream = [x + y for x, y in zip(stream, mixed, strict=True)]
        stream = [x + _feed_forward(config, layer, _norm(config, layer, "post_attention_layernorm", x)) for x in stream]
    final = [_norm(config, weights, "model.norm", x) for x in stream]
    head = weights["model.embed_tokens.weight" if config.tied_head else "lm_head.weight"]
    return torch.stack([head @ x for x in final])


def is_seen(config: ModelConfig, query: int, key: int) -> bool:
    if key > query:
        return False
    if config.attention == "window":
        return query - key < config.window
    if config.attention == "block-sparse":
        blocks = query // config.sparse_block - key // config.sparse_block
        is_summary = key // config.sparse_block % config.sparse_stride == config.sparse_stride - 1
        return blocks < config.sparse_local or is_summary
    return True


def _norm(config: ModelConfig, weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    epsilon = float(config.norm_epsilon)
    if config.norm == "layer":
        x = x - x.mean()
        return x / torch.sqrt((x * x).mean() + epsilon) * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return x / torch.sqrt((x * x).mean() + epsilon) * weights[f"{name}.weight"]


def _waves(config: ModelConfig, position: int) -> Tensor:
    wave = torch.zeros(config.width, dtype=torch.float64)
    for i in range(config.width // 2):
        angle = position / 10_000 ** (2 * i / config.width)
        wave[2 * i], wave[2 * i + 1] = math.sin(angle), math.cos(angle)
    return wave / math.sqrt(config.width)


def _frequency(config: ModelConfig, i: int) -> float:
    frequency = config.rope_base ** (-2 * i / config.head_size)
    turns = config.rope_original_context * frequency / (2 * math.pi)  # of this wave in the original context
    if config.rope_factor == 1 or turns > config.rope_high_frequency:
        return frequency
    if turns < config.rope_low_frequency:
        return frequency / config.rope_factor
    kept = (turns - config.rope_low_frequency) / (config.rope_high_frequency - config.rope_low_frequency)
    return (1 - kept) * frequency / config.rope_factor + kept * frequency


def _rotated(config: ModelConfig, x: Tensor, position: int) -> Tensor:
    if config.positions != "rope":
        return x
    half = config.head_size // 2
    turned = torch.empty_like(x)
    for i in range(half):
        angle = position * _frequency(config, i)
        pair = complex(x[i], x[i + half]) * complex(math.cos(angle), math.sin(angle))
        turned[i], turned[i + half] = pair.real, pair.imag
    return turned


def _attention(config: ModelConfig, layer: Mapping[str, Tensor], normed: list[Tensor], position: int) -> Tensor:
    heads = []
    for head in range(config.heads):
        group = head // (config.heads // config.key_value_heads)
        rows = slice(head * config.head_size, (head + 1) * config.head_size)
        shared = slice(group * config.head_size, (group + 1) * config.head_size)
        seen = [t for t in range(position + 1) if is_seen(config, position, t)]
        query = _rotated(config, layer["self_attn.q_proj.weight"][rows] @ normed[position], position)
        keys = [_rotated(config, layer["self_attn.k_proj.weight"][shared] @ normed[t], t) for t in seen]
        values = [layer["self_attn.v_proj.weight"][shared] @ normed[t] for t in seen]
        shares = [math.exp(query @ key / math.sqrt(config.head_size)) for key in keys]
        sink = math.exp(layer["self_attn.sinks"][head]) if config.attention_sinks else 0.0
        heads.append(sum(s * v for s, v in zip(shares, values, strict=True)) / (sum(shares) + sink))
    return layer["self_attn.o_proj.weight"] @ torch.cat(heads)


def _feed_forward(config: ModelConfig, layer: Mapping[str, Tensor], x: Tensor) -> Tensor:
    if not config.experts:
        return _dense(config, layer, "mlp", x)
    scores = (layer["mlp.gate.weight"] @ x).tolist()
    chosen = sorted(range(config.experts), key=lambda expert: -scores[expert])[: config.experts_per_token]
    among = chosen if config.normalize_top_k else range(config.experts)
    total = sum(math.exp(scores[expert]) for expert in among)
    result = torch.zeros_like(x)
    for expert in chosen:
        gate, up = (layer["mlp.experts.gate_up_proj"][expert] @ x).chunk(2)
        made = layer["mlp.experts.down_proj"][expert] @ (gate / (1 + torch.exp(-gate)) * up)
        result = result + math.exp(scores[expert]) / total * made
    return result + (_dense(config, layer, "mlp.shared_experts", x) if config.shared_experts else 0)


def _dense(config: ModelConfig, layer: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    up = layer[f"{name}.up_proj.weight"] @ x
    if config.activation == "swiglu":
        gate = layer[f"{name}.gate_proj.weight"] @ x
        hidden = gate / (1 + torch.exp(-gate)) * up
    elif config.activation == "gelu":
        hidden = torch.stack([u * (1 + math.erf(u / math.sqrt(2))) / 2 for u in up])
    else:
        hidden = torch.stack([max(u, torch.zeros_like(u)) for u in up])
    return layer[f"{name}.down_proj.weight"] @ hidden
