"""A step: the gradient of the whole batch, whatever the micro-batches; what stands around it; what it leaves alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.config import ModelConfig, TrainingConfig
from model.errors import ConfigError
from model.initial import initial_parameters
from model.learner import Learner
from model.limits import MICRO_BATCH_TOKENS
from model.optimizers import uphill
from model.precision import LossScaler
from model.quantization import rounded

CONFIG = ModelConfig(width=32, layers=2, heads=2, key_value_heads=1, feed_forward=64, context=32)
TRAINING = TrainingConfig(batch=6, sequence=24, warmup_steps=0)
WINDOWS = np.random.default_rng(1).integers(0, 256, (6, 25))


def learner(training: TrainingConfig = TRAINING, config: ModelConfig = CONFIG, precision: str = "fp32") -> Learner:
    one = Learner(config, training, precision=precision)
    one.load(initial_parameters(config, 1))
    return one


def gradient(one: Learner, windows: np.ndarray = WINDOWS) -> Tensor:
    one.model.train()
    assert one._accumulate(one._micro_batches(windows), 1, lambda: False) is not None
    return one.flat.gradient.clone()


def steps(one: Learner, count: int) -> list[float]:
    losses = [one.step(WINDOWS, network_step=step, seed=step) for step in range(count)]
    assert None not in losses
    return losses  # type: ignore[return-value]


# --- the gradient ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [24, 48, 96, 10_000])
def test_unequal_micro_batches_give_the_gradient_of_the_batch(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six windows in micro-batches of 1, 2, 4 (and the 2 that are left) or all: against the definition, in float64."""
    monkeypatch.setitem(MICRO_BATCH_TOKENS, "cpu", tokens)
    one = learner()
    found = gradient(one).double()
    whole = learner()
    whole.model.double()
    exact = [weight.detach().clone().double().requires_grad_() for weight in whole.flat.weights.values()]
    batch = torch.from_numpy(WINDOWS)
    logits = torch.func.functional_call(
        whole.model,
        {_name_of(whole, name): value for name, value in zip(whole.flat.weights, exact, strict=True)},
        (batch[:, :-1],),
    )
    functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
    for place, value in zip(one.flat.layout.tensors, exact, strict=True):
        part = found[place.offset : place.offset + place.count]
        assert value.grad is not None
        assert torch.linalg.vector_norm(part - value.grad.flatten()) <= 1e-5 * torch.linalg.vector_norm(value.grad)


def _name_of(one: Learner, weight: str) -> str:
    """The name by which the modules know a tensor of the buffer."""
    return next(name for name, parameter in one.model.named_parameters() if parameter is one.flat.weights[weight])


def test_padding_counts_for_nothing_in_whichever_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unequal numbers of tokens: a mean of means would weigh those of the short window more."""
    windows = WINDOWS.copy()
    windows[4, 10:] = -1
    whole = gradient(learner(), windows)
    monkeypatch.setitem(MICRO_BATCH_TOKENS, "cpu", 24)
    parts = gradient(learner(), windows)
    assert torch.linalg.vector_norm(parts - whole) < 1e-5 * torch.linalg.vector_norm(whole)


def test_evaluation_is_the_mean_over_what_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of windows, some of which may be inputs alone."""
    masked = WINDOWS.copy()
    masked[0] = ~masked[0]
    masked[1, 4:] = ~masked[1, 4:]
    one = learner()
    at_once = one.evaluate(masked)
    monkeypatch.setitem(MICRO_BATCH_TOKENS, "cpu", 24)
    assert one.evaluate(masked) == pytest.approx(at_once, rel=1e-6)
    part = one._micro_batches(masked)[1]
    assert one.evaluate(masked[:2]) == pytest.approx(one.model.loss(part).item(), rel=1e-6)
    assert one.evaluate(masked[:1]) == 0.0


def test_the_gradient_is_cut_to_its_length_and_no_shorter() -> None:
    """By what SGD without a memory moves, for a step is then the gradient itself."""
    plain = TrainingConfig(
        batch=6, sequence=24, warmup_steps=0, optimizer="sgd", beta_first="0", weight_decay="0", inner_rate="0.001"
    )
    for clip, expected in (("0.5", 0.5), ("1000", float(torch.linalg.vector_norm(gradient(learner()))))):
        one = learner(replace(plain, clip=clip))
        before = one.parameters().copy()
        steps(one, 1)
        assert np.linalg.norm(one.parameters() - before) == pytest.approx(0.001 * expected, rel=1e-3)


# --- the step -------------------------------------------------------------------------------------------------------


def test_decay_takes_its_share_of_the_matrices_once_and_leaves_the_gains() -> None:
    one = learner(replace(TRAINING, inner_rate="0.01", weight_decay="0.5"))
    before = {name: weight.detach().clone() for name, weight in one.flat.weights.items()}
    one.flat.gradient.zero_()
    one._decay_matrices(0.01)
    one.optimizer.step(one.flat.gradient, rate=0.01)  # without a gradient, AdamW itself moves nothing
    for name, weight in one.flat.weights.items():
        expected = before[name] * (0.995 if weight.dim() > 1 else 1.0)
        assert torch.allclose(weight, expected, rtol=1e-6), name


@pytest.mark.parametrize("change", [
    {}, {"optimizer": "sgd", "inner_rate": "0.3"}, {"optimizer": "lion", "inner_rate": "0.0005"},
    {"sharpness_radius": "0.05"}, {"quantization": "int8"},
    {"optimizer": "lion", "inner_rate": "0.0005", "sharpness_radius": "0.05", "quantization": "int8"},
])  # fmt: skip
def test_every_way_to_train_learns(change: dict[str, str]) -> None:
    one = learner(replace(TRAINING, **change))
    losses = steps(one, 30)
    assert losses[-1] < 0.8 * losses[0]
    assert not any(one.flat.values[padding].any() for padding in one.flat.layout.padding)


def test_sam_steps_from_below_with_the_gradient_from_above() -> None:
    training = replace(TRAINING, sharpness_radius="0.2", clip="1000")
    one, by_hand = learner(training), learner(TRAINING)
    steps(one, 1)
    with uphill(by_hand.flat.values, gradient(by_hand), radius=0.2):
        gradient(by_hand)
    by_hand._decay_matrices(0.001)
    by_hand.optimizer.step(by_hand.flat.gradient, rate=0.001)
    assert torch.equal(one.flat.values, by_hand.flat.values)
    plain = learner(replace(TRAINING, clip="1000"))
    steps(plain, 1)
    assert not torch.equal(one.flat.values, plain.flat.values)


def test_a_quantized_network_is_evaluated_as_it_will_be_used() -> None:
    one, plain = learner(replace(TRAINING, quantization="int8")), learner()
    for weight in plain.flat.weights.values():
        if weight.dim() > 1:
            weight.data.copy_(rounded(weight.data))
    before = one.flat.values.clone()
    assert one.evaluate(WINDOWS) == plain.evaluate(WINDOWS) != learner().evaluate(WINDOWS)
    assert torch.equal(one.flat.values, before), "the parameters that are contributed stay exact"


def test_dropout_follows_the_seed_and_stays_out_of_evaluation() -> None:
    config = replace(CONFIG, dropout="0.3")
    one, two, other = (learner(config=config) for _ in range(3))
    torch.manual_seed(99)  # whatever was drawn before
    first, again = one.step(WINDOWS, network_step=0, seed=5), two.step(WINDOWS, network_step=0, seed=5)
    assert first == again != other.step(WINDOWS, network_step=0, seed=6)
    assert torch.equal(one.flat.values, two.flat.values)
    assert learner(config=config).evaluate(WINDOWS) == learner().evaluate(WINDOWS)


# --- precision ------------------------------------------------------------------------------------------------------


def test_bf16_learns_what_fp32_learns() -> None:
    exact, short = learner(), learner(precision="bf16")
    cosine = functional.cosine_similarity(gradient(exact), gradient(short), dim=0)
    assert cosine > 0.999 and short.flat.values.dtype == torch.float32
    assert steps(short, 20)[-1] == pytest.approx(steps(exact, 20)[-1], rel=0.02)


def test_fp16_is_refused_on_a_processor() -> None:
    with pytest.raises(ConfigError, match="fp16"):
        Learner(CONFIG, TRAINING, precision="fp16")


def half() -> Learner:
    """fp16 where it is refused because it is slow: it computes the same."""
    one = learner()
    one.precision, one.scaler = "fp16", LossScaler()
    return one


def test_fp16_with_a_scaled_loss_finds_the_gradient() -> None:
    cosine = functional.cosine_similarity(gradient(half()), gradient(learner()), dim=0)
    assert cosine > 0.999


def test_a_step_that_overflows_is_left_out_and_the_scale_halves() -> None:
    one = half()
    assert one.scaler is not None
    one.scaler.scale = 2.0**40
    before = one.flat.values.clone()
    losses = steps(one, 1)
    assert one.scaler.scale == 2.0**39 and one.steps == 0 and torch.equal(one.flat.values, before)
    losses += steps(one, 60)
    assert one.scaler.scale < 2.0**30 and one.steps > 30
    assert losses[-1] < 0.9 * losses[0] and np.isfinite(one.parameters()).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_every_precision_learns_what_the_processor_learns(precision: str) -> None:
    one = Learner(CONFIG, TRAINING, device="cuda", precision=precision)
    one.load(initial_parameters(CONFIG, 1))
    assert steps(one, 20)[-1] == pytest.approx(steps(learner(), 20)[-1], rel=0.02)
