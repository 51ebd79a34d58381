"""The decoder, in every variant, against a naive one; its losses against their definitions; what checkpointing changes."""

import math
from dataclasses import replace

import pytest
import torch

from cuda_ext import swiglu
from model.cache import Cache
from model.config import CHECKPOINTINGS, PRESETS, ModelConfig
from model.flat import FlatParameters
from model.initial import initial_parameters
from model.layout import Layout
from model.transformer import Totals, Transformer
from tests.model.decoders import VARIANTS, build, naive_logits, variant, windows

TOKENS = [104, 101, 108, 108, 111, 0, 255, 10, 32]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_decoder_is_the_naive_one(name: str) -> None:
    config = variant(name)
    model, flat = build(config)
    weights = {name: weight.detach().double() for name, weight in flat.weights.items()}
    expected = naive_logits(config, weights, TOKENS)
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS, TOKENS[::-1]]))[0]
    assert torch.allclose(logits.double(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_position_sees_the_future(name: str) -> None:
    model, _ = build(variant(name))
    tokens = torch.arange(16).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 9] = 200
    with torch.no_grad():
        before, after = model(tokens)[0], model(changed)[0]
    assert torch.equal(before[:9], after[:9]) and not torch.allclose(before[9:], after[9:])


@pytest.mark.parametrize("name", VARIANTS)
def test_modules_view_the_flat_buffers(name: str) -> None:
    config = variant(name, dropout="0.1")
    model, flat = build(config)
    part = windows(config, 4, 16)
    torch.manual_seed(1)
    model.losses(part).total.backward()
    for place in flat.layout.tensors:
        weight = flat.weights[place.name]
        assert weight.grad is not None and weight.grad.abs().sum() > 0, place.name
        assert weight.data_ptr() == flat.values.data_ptr() + 4 * place.offset
        assert weight.grad.data_ptr() == flat.gradient.data_ptr() + 4 * place.offset
        assert tuple(weight.shape) == place.shape
    assert not any(flat.gradient[padding].any() for padding in flat.layout.padding)
    gradient = flat.gradient.clone()
    torch.manual_seed(1)
    model.losses(part).total.backward()
    assert torch.allclose(flat.gradient, 2 * gradient, rtol=1e-4), "backward adds in place"
    assert set(map(id, model.parameters())) == set(map(id, flat.weights.values()))


def test_every_parameter_of_the_modules_is_in_the_buffer() -> None:
    config = PRESETS["tiny"]
    model, _ = build(config)
    assert sum(weight.numel() for weight in model.parameters()) == config.parameters


@pytest.mark.parametrize("size", ["tiny", "tiny-moe"])
def test_a_new_model_knows_nothing(size: str) -> None:
    config = PRESETS[size]
    flat = FlatParameters(Layout.of(config), torch.device("cpu"))
    with torch.no_grad():
        flat.values.copy_(torch.tensor(initial_parameters(config, 0)))
        loss = Transformer(config, flat.weights).loss(windows(config, 8, 128)).item()
    assert loss == pytest.approx(math.log(256), rel=0.2)


def test_dropout_is_for_training() -> None:
    config = variant("llama", dropout="0.5")
    model, flat = build(config)
    tokens = windows(config, 2, 15)
    plain = Transformer(variant("llama"), flat.weights)
    with torch.no_grad():
        dropped, again = model(tokens), model(tokens)
        assert torch.equal(model.eval()(tokens), plain(tokens))
    assert not torch.equal(dropped, again)


@pytest.mark.parametrize("name", VARIANTS)
def test_half_precision_inside_changes_little(name: str) -> None:
    config = variant(name)
    model, flat = build(config)
    part = windows(config, 4, 16)
    model.losses(part).total.backward()
    exact = flat.gradient.clone()
    flat.gradient.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        half = model.losses(part)
        assert half.total.dtype == torch.float32
    half.total.backward()
    assert (flat.gradient - exact).norm() < 0.15 * exact.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", VARIANTS)
def test_a_gpu_computes_the_same(name: str) -> None:
    config = variant(name)
    part = windows(config, 4, 16)
    gradients, logits = [], []
    for device in ("cpu", "cuda"):
        model, flat = build(config, device=device)
        model.losses(part.to(device)).total.backward()
        gradients.append(flat.gradient.cpu())
        with torch.no_grad():
            logits.append(model(part[:, :16].to(device), Cache(config)).cpu())
    assert torch.allclose(*logits, atol=1e-4, rtol=1e-4)
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()


# --- checkpointing.py --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", CHECKPOINTINGS[1:])
@pytest.mark.parametrize("name", ["llama", "experts", "window-sinks"])
def test_checkpointing_changes_no_bit(name: str, part: str) -> None:
    """The losses of the routers among them: a layer that is computed twice counts once."""
    config = variant(name, dropout="0.2")
    gradients, losses = [], []
    for each in (config, replace(config, checkpointing=part)):
        model, flat = build(each)
        torch.manual_seed(7)
        result = model.losses(windows(config, 3, 16))
        result.total.backward()
        gradients.append(flat.gradient.clone())
        losses.append([loss.item() for loss in result])
    assert losses[0] == losses[1] and torch.equal(gradients[0], gradients[1])
    assert Layout.of(config) == Layout.of(replace(config, checkpointing=part)), "the same model to everybody else"


def test_checkpointing_keeps_less() -> None:
    def kept(part: str) -> int:
        model, _ = build(variant("llama", checkpointing=part))
        sizes: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = model.losses(windows(model.config, 8, 16)).total
        assert loss.requires_grad
        return sum(sizes.values())

    none, attention, feed_forward, layer = (kept(part) for part in CHECKPOINTINGS)
    assert layer < min(attention, feed_forward) and max(attention, feed_forward) < none


# --- losses ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "experts"])
def test_the_loss_is_the_mean_over_what_is_predicted(name: str) -> None:
    config = variant(name)
    model, _ = build(config)
    part = windows(config, 3, 12)
    part[1, 7:] = -1
    with torch.no_grad():
        logs = torch.log_softmax(model(part[:, :-1].clamp_min(0)).double(), dim=-1)
        nats = [-logs[b, t, part[b, t + 1]] for b in range(3) for t in range(12) if part[b, t + 1] >= 0]
        assert len(nats) == 12 + 6 + 12
        expected = torch.stack(nats).mean().item()
        assert model.loss(part).item() == pytest.approx(expected, rel=1e-6)
        assert model.losses(part).prediction.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["llama", "experts"])
def test_a_token_that_nobody_predicts_is_read_all_the_same(name: str) -> None:
    config = variant(name)
    model, _ = build(config)
    whole = windows(config, 3, 12)
    part, silent = whole.clone(), torch.zeros_like(whole, dtype=torch.bool)
    silent[:, :5] = silent[1, 9] = True
    part[silent] = ~part[silent]
    with torch.no_grad():
        logs = torch.log_softmax(model(whole[:, :-1]).double(), dim=-1)
        nats = [-logs[b, t, whole[b, t + 1]] for b in range(3) for t in range(12) if not silent[b, t + 1]]
        assert len(nats) == 3 * 8 - 1
        expected = torch.stack(nats).mean().item()
        assert model.loss(part).item() == pytest.approx(expected, rel=1e-6)
        assert model.losses(part).prediction.item() == pytest.approx(expected, rel=1e-6)


def step(config: ModelConfig, parts: list[torch.Tensor]) -> tuple[list[float], torch.Tensor]:
    """The losses and the gradient of one optimizer step."""
    model, flat = build(config)
    totals = model.totals(parts)
    sums = [0.0] * 4
    for part in parts:
        losses = model.losses(part, totals)
        losses.total.backward()
        sums = [total + loss.item() for total, loss in zip(sums, losses, strict=True)]
    return sums, flat.gradient


@pytest.mark.parametrize("name", ["llama", "experts", "experts-odd"])
@pytest.mark.parametrize("sizes", [[1] * 6, [2, 4], [5, 1]])
def test_a_step_does_not_depend_on_its_micro_batches(name: str, sizes: list[int]) -> None:
    config = variant(name)
    config = replace(config, balance_loss="1", router_z_loss="1") if config.experts else config
    whole = windows(config, 6, 12)
    whole[2, 3:] = -1  # a micro-batch of one window has fewer tokens than another
    losses, gradient = step(config, [whole])
    in_parts, gradient_in_parts = step(config, list(torch.split(whole, sizes)))
    assert in_parts == pytest.approx(losses, rel=1e-5)
    assert torch.allclose(gradient, gradient_in_parts, atol=1e-6 * gradient.abs().max().item() + 1e-7)


@pytest.mark.parametrize("name", ["llama", "experts", "window"])
def test_a_step_does_not_depend_on_padding(name: str) -> None:
    config = variant(name)
    config = replace(config, balance_loss="1", router_z_loss="1") if config.experts else config
    texts = windows(config, 2, 9)
    padded = torch.full((3, 15), -1)
    padded[:2, :10] = texts
    losses, gradient = step(config, [texts])
    with_padding, gradient_with_padding = step(config, [padded])
    assert with_padding == pytest.approx(losses, rel=1e-5)
    assert torch.allclose(gradient, gradient_with_padding, atol=1e-6 * gradient.abs().max().item() + 1e-7)
    # A micro-batch may be nothing but padding.
    with_nothing, gradient_with_nothing = step(config, [texts, torch.full((1, 10), -1)])
    assert with_nothing == pytest.approx(losses, rel=1e-5)
    assert torch.allclose(gradient, gradient_with_nothing, atol=1e-6 * gradient.abs().max().item() + 1e-7)


def test_a_step_of_one_micro_batch_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build(variant("experts"))
    read = []
    inner = model.hidden
    monkeypatch.setattr(model, "hidden", lambda *args: read.append(args) or inner(*args))
    part = windows(model.config, 4, 12)
    totals = model.totals([part])
    assert isinstance(totals, Totals) and totals.tokens == 48 and totals.choices is None and not read
    first, again = model.losses(part), model.losses(part, totals)
    assert [loss.item() for loss in first] == [loss.item() for loss in again]
    counted = model.totals([part[:2], part[2:]]).choices
    assert counted is not None and [int(layer.sum()) for layer in counted] == [96, 96] and len(read) == 4


# --- swiglu ------------------------------------------------------------------------------------------------------------------


def test_swiglu_keeps_its_inputs_and_leaves_them_alone() -> None:
    gate, up = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    before = gate.detach().clone(), up.detach().clone()
    result = swiglu(gate, up)
    result.backward(torch.ones_like(result).expand_as(result))
    assert torch.equal(gate.detach(), before[0]) and torch.equal(up.detach(), before[1])
    swiglu(gate, up).sum().backward()  # an expanded gradient, of stride zero
