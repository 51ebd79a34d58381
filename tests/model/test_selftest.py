import numpy as np
import pytest

from model import selftest


def test_this_machine_knows_the_answers() -> None:
    assert selftest.run() is None


@pytest.mark.parametrize("constant", ["_INITIAL", "_ENCODED", "_STEPPED", "_STEPPED_NESTEROV", "_PHILOX"])
def test_a_wrong_answer_is_named(monkeypatch: pytest.MonkeyPatch, constant: str) -> None:
    monkeypatch.setattr(selftest, constant, "wrong")
    message = selftest.run()
    assert message is not None and message.startswith("self-test failed: ") and "\n" not in message


def test_a_process_that_flushes_denormals_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        assert selftest.run() == "self-test failed: denormal numbers; this machine would not agree with the others"
    finally:
        torch.set_flush_denormal(False)
    assert selftest.run() is None


def test_a_big_endian_machine_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest.sys, "byteorder", "big")
    assert "byte order" in str(selftest.run())


def test_an_overflow_would_be_seen() -> None:
    """Why the bounds are proven on paper: numpy wraps without a word."""
    assert (np.array([2**62], np.int64) * 2).tolist() == [-(2**63)]
