"""Our decoder and transformers', on the same random weights and odd shapes: logits, losses, and the gradient of every parameter.

Gradients, not parameters after a step: an optimizer makes of a wrong gradient a step of the right size.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from model.config import ModelConfig
from model.moe import Routing
from model.patterns import Full, Window, attend
from model.router_losses import balance_loss, choices
from tests.model.decoders import build, variant, windows

LLAMA: list[dict[str, Any]] = [
    {}, {"tied_head": False, "vocabulary": 67}, {"heads": 6, "key_value_heads": 6, "width": 60}, {"key_value_heads": 1},
    {"layers": 1, "heads": 3, "key_value_heads": 3, "width": 6 * 3, "feed_forward": 11, "vocabulary": 5}, {"norm_epsilon": "0.001"},
    {"head_dim": 10}, {"head_dim": 4, "width": 30, "key_value_heads": 1},
    {"rope_factor": 8, "rope_original_context": 40}, {"rope_base": 500_000, "rope_factor": 32, "rope_low_frequency": 2},
]  # fmt: skip
MISTRAL: list[dict[str, Any]] = [
    {"window": 1},
    {"window": 7},
    {"window": 64, "key_value_heads": 6},
    {"window": 130},
    {"window": 7, "head_dim": 6},
]
MIXTRAL: list[dict[str, Any]] = [
    {"experts": 4}, {"experts": 5, "experts_per_token": 3, "tied_head": False}, {"experts": 3, "experts_per_token": 3},
    {"experts": 7, "feed_forward": 13, "vocabulary": 67}, {"experts": 4, "attention": "window", "window": 7},
    {"experts": 64, "experts_per_token": 8, "layers": 1}, {"experts": 1, "experts_per_token": 1, "normalize_top_k": False},
]  # fmt: skip


def theirs(config: ModelConfig) -> torch.nn.Module:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(config.rope_base)}
    if config.rope_factor > 1:
        rope |= {
            "rope_type": "llama3",
            "factor": float(config.rope_factor),
            "low_freq_factor": float(config.rope_low_frequency),
            "high_freq_factor": float(config.rope_high_frequency),
            "original_max_position_embeddings": config.rope_original_context,
        }
    sizes = {
        "vocab_size": config.vocabulary, "hidden_size": config.width, "intermediate_size": config.feed_forward,
        "num_hidden_layers": config.layers, "num_attention_heads": config.heads, "num_key_value_heads": config.key_value_heads,
        "max_position_embeddings": config.context, "rms_norm_eps": float(config.norm_epsilon), "rope_parameters": rope,
        "head_dim": config.head_size, "tie_word_embeddings": config.tied_head, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    if config.experts:
        sizes |= {
            "num_local_experts": config.experts,
            "num_experts_per_tok": config.experts_per_token,
            "router_aux_loss_coef": float(config.balance_loss),
        }
        mixtral = MixtralConfig(**sizes, sliding_window=config.window or None)
        # Of rows that do not begin on 16 bytes: theirs has to be told to loop over the experts.
        if config.feed_forward % 4:
            mixtral._experts_implementation = "eager"
        return MixtralForCausalLM(mixtral)
    if config.attention == "window":
        return MistralForCausalLM(MistralConfig(**sizes, sliding_window=config.window))
    return LlamaForCausalLM(LlamaConfig(**sizes))


def compare(config: ModelConfig, *, batch: int, time: int, logits_within: float) -> None:
    model, flat = build(config)
    other = theirs(config)
    weights = {name: weight.detach().clone() for name, weight in flat.weights.items()}
    if config.tied_head:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    other.load_state_dict(weights)  # strict: every name and every shape is theirs
    part = windows(config, batch, time)
    with torch.no_grad():
        assert (model(part[:, :-1]) - other(part[:, :-1]).logits).abs().max().item() <= logits_within
    pooled = {"output_router_logits": True} if config.experts and config.layers == 1 else {}
    loss = other(part[:, :-1], labels=part[:, :-1], shift_labels=part[:, 1:].contiguous(), **pooled).loss
    losses = model.losses(part)
    ours = losses.total if pooled else losses.prediction
    assert ours.item() == pytest.approx(loss.item(), rel=1e-6)
    ours.backward()
    loss.backward()
    for name, parameter in other.named_parameters():
        gradient = flat.weights[name].grad
        assert gradient is not None and parameter.grad is not None
        gap = (gradient - parameter.grad).abs().max()
        # Ours and theirs are each up to 3e-6 of the greatest away from float64, and not in the same direction.
        assert gap <= 5e-6 * parameter.grad.abs().max() + 1e-8, f"{name}: {gap} of {parameter.grad.abs().max()}"


@pytest.mark.parametrize("change", LLAMA)
@pytest.mark.parametrize(("batch", "time"), [(3, 33), (1, 1)])
def test_llama(change: dict[str, Any], batch: int, time: int) -> None:
    """To the last bit: the same operations in the same order."""
    compare(variant("llama", **{"context": 160} | change), batch=batch, time=time, logits_within=0)


@pytest.mark.parametrize("change", MISTRAL)
@pytest.mark.parametrize("time", [5, 150])
def test_mistral(change: dict[str, Any], time: int) -> None:
    compare(variant("window", **{"context": 160} | change), batch=2, time=time, logits_within=1e-5)


@pytest.mark.parametrize("change", MIXTRAL)
@pytest.mark.parametrize(("batch", "time"), [(3, 33), (1, 1)])
def test_mixtral(change: dict[str, Any], batch: int, time: int) -> None:
    """The loss of the routers, too, where there is one layer; router_losses.py says why not elsewhere."""
    config = variant("llama", **{"context": 160, "router_z_loss": "0", "balance_loss": "0.5"} | change)
    compare(config, batch=batch, time=time, logits_within=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_the_balance_loss(padded: bool) -> None:
    """Theirs of each layer; and theirs of all layers, of ours after the layers are one."""
    config = variant("experts-odd", layers=3)
    model, _ = build(config)
    with torch.no_grad():
        _, routings = model.hidden(windows(config, 4, 15))
    real = torch.arange(64) % 16 < 9 if padded else None
    mask = None if real is None else real.view(4, 16)
    layers = [load_balancing_loss_func((each.logits,), 5, 3, mask) for each in routings]
    ours = balance_loss(routings, [choices(each, real) for each in routings], real=real)
    assert ours.item() == pytest.approx(torch.stack(layers).mean().item(), rel=1e-6)
    logits, chosen, counts, lse = zip(*routings, strict=True)
    one = Routing(torch.cat(logits), torch.cat(chosen), torch.stack(counts).sum(dim=0).int(), torch.cat(lse))
    everywhere = None if real is None else real.repeat(3)
    pooled = balance_loss([one], [choices(one, everywhere)], real=everywhere)
    assert pooled.item() == pytest.approx(load_balancing_loss_func(logits, 5, 3, mask).item(), rel=1e-6)


@pytest.mark.parametrize("pattern", [Full(), Window(9)])
def test_the_sinks_of_gpt_oss(pattern: Full | Window) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, heads, 70, 10, generator=generator) for heads in (6, 2, 2))
    sinks = torch.randn(6, generator=generator)
    at = torch.arange(70)
    mask = torch.zeros(70, 70).masked_fill(~pattern.sees(at[:, None], at), -torch.inf)
    module = SimpleNamespace(num_key_value_groups=3, sinks=sinks, training=False)
    expected, _ = eager_attention_forward(module, query, key, value, mask, scaling=10**-0.5)
    assert torch.allclose(attend(pattern, query, key, value, sinks=sinks), expected.transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "window", "experts"])
def test_they_load_a_file_of_our_tensors(name: str, tmp_path: Path) -> None:
    config = variant(name)
    model, flat = build(config)
    other = theirs(config)
    other.config.save_pretrained(tmp_path)
    save_file({name: weight.detach().clone() for name, weight in flat.weights.items()}, tmp_path / "model.safetensors")
    loaded, report = type(other).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), "nothing is missing, left over, or of another shape"
    tokens = windows(config, 2, 15)
    with torch.no_grad():
        assert (model(tokens) - loaded(tokens).logits).abs().max().item() <= 1e-5
