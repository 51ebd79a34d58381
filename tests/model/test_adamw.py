"""Our AdamW against torch's own (model/adamw.py)."""

import subprocess
import sys

import torch

from model.adamw import AdamW
from model.config import TrainingConfig


def test_the_same_bits_as_torch() -> None:
    training = TrainingConfig()
    generator = torch.Generator().manual_seed(1)
    ours = torch.randn(5000, generator=generator)
    theirs = ours.clone().requires_grad_()
    mine = AdamW(ours, training)
    reference = torch.optim.AdamW([theirs], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)
    for step in range(5):
        gradient = torch.randn(5000, generator=generator)
        rate = 1e-3 * (step + 1) / 5
        mine.step(gradient, rate=rate)
        theirs.grad = gradient.clone()
        reference.param_groups[0]["lr"] = rate
        reference.step()
    assert torch.equal(ours, theirs.detach())
    assert torch.equal(mine.second, reference.state[theirs]["exp_avg_sq"])


def test_a_trainer_brings_no_compiler_with_it() -> None:
    program = "import sys, model.trainer; print(any(name.startswith('torch._dynamo') for name in sys.modules))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
