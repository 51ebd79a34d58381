"""Equal bytes whatever instruction set, thread count or process computes them: each variant in a process of its own."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import hashlib, sys
import torch
torch.set_num_threads(int(sys.argv[1]))
from model import compression, selftest
from model.config import ModelConfig, TrainingConfig
from model.replica import Replica
assert selftest.run() is None
config = ModelConfig(width=64, layers=2, heads=4, key_value_heads=2, feed_forward=176, context=32)
training = TrainingConfig(momentum_numerator=7, momentum_shift=3, nesterov=True)
replica = Replica.initial(config, training, seed=11)
for height in range(8):
    payloads = [compression.probe(replica.layout, 100 * height + index) for index in range(5)]
    replica = replica.apply(payloads, [1, 1, 0, 2, 1])
print(hashlib.sha256(b"".join(replica.leaves())).hexdigest())
"""
KNOWN = "d957e384caefc81ae1db38746706fa0fb39c668d4917f540741ab81038344b6c"


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_the_same_bytes(capability: str, threads: int, kernels: str) -> None:
    if threads != 1 and (capability == "avx2" or kernels == "off"):
        pytest.skip("the corners are enough")
    # numpy: without its vectorised paths under "default"
    disabled = {"default": "AVX2 FMA3 AVX512F AVX512_SKX", "avx2": "AVX512F AVX512_SKX", "avx512": ""}[capability]
    environment = os.environ | {
        "ATEN_CPU_CAPABILITY": capability,
        "NPY_DISABLE_CPU_FEATURES": disabled,
        "OMP_NUM_THREADS": str(threads),
        "P2PNODE_EXT": kernels,  # cuda_ext/integers.py: with kernels where they are built, and without
    }
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(threads)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [KNOWN]
