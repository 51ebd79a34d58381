"""Bounds of limits.py: those that only hold together, and what is refused one step past each."""

import json
import struct
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import compression, limits
from model.aggregate import aggregate, norm_weights
from model.compression import dense_int8
from model.config import PRESETS, ModelConfig, TrainingConfig
from model.data import Corpus, CorpusFile, default_corpus
from model.errors import ConfigError, CorpusError, PayloadError, SnapshotError
from model.layout import Layout
from model.outer import outer_step
from model.snapshot import read_metadata

MODEL = ModelConfig(width=16, layers=1, heads=2, key_value_heads=1, feed_forward=32, context=128)
LAYOUT = Layout.of(MODEL)


def test_no_partial_sum_of_the_aggregate_leaves_int64() -> None:
    largest = limits.QUANTUM_MAX << (limits.EXPONENT_MAX + limits.FRACTION_BITS)
    assert largest * limits.NORM_WEIGHT_MAX * limits.WEIGHT_SUM_MAX < 2**63


def test_every_exponent_is_a_whole_number_of_units() -> None:
    assert limits.EXPONENT_MIN + limits.FRACTION_BITS >= 0


def test_a_step_is_exact_in_float32_and_a_leaf_holds_whole_chunks() -> None:
    assert limits.STEP_MAX < 2**24
    assert limits.LEAF_BYTES % (4 * limits.CHUNK_VALUES) == 0


# --- what a genesis says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "most", "others"),
    [
        ("width", limits.WIDTH_MAX, {"heads": 1, "key_value_heads": 1}),
        ("layers", limits.LAYERS_MAX, {}),
        ("heads", limits.HEADS_MAX, {"width": 4 * limits.HEADS_MAX}),
        ("feed_forward", limits.FEED_FORWARD_MAX, {}),
        ("context", limits.CONTEXT_MAX, {}),
        ("rope_base", limits.ROPE_BASE_MAX, {}),
        ("initial_gain", limits.INITIAL_GAIN_MAX, {}),
        ("vocabulary", limits.VOCABULARY_MAX, {}),
        ("experts", limits.EXPERTS_MAX, {}),
    ],
)
def test_a_model_is_no_larger(field: str, most: int, others: dict[str, int]) -> None:
    assert getattr(replace(MODEL, **others, **{field: most}), field) == most
    with pytest.raises(ConfigError, match=f"^{field} is {most + 1}, allowed are"):
        replace(MODEL, **others, **{field: most + 1})


def test_a_model_has_no_more_parameters() -> None:
    """A layer of the widest has 2^32, and a little for its norms."""
    widest: dict[str, int] = {"width": limits.WIDTH_MAX, "heads": 128, "key_value_heads": 128, "feed_forward": 65536}
    assert replace(MODEL, layers=15, **widest).parameters < limits.PARAMETERS_MAX
    with pytest.raises(ConfigError, match="parameters, at most"):
        replace(MODEL, layers=17, **widest)


def test_a_schedule_is_no_longer() -> None:
    most = limits.SCHEDULE_STEPS_MAX
    assert replace(TrainingConfig(), schedule="cosine", schedule_steps=most).schedule_steps == most
    with pytest.raises(ConfigError, match=f"^schedule_steps is {most + 1}, allowed are"):
        replace(TrainingConfig(), schedule="cosine", schedule_steps=most + 1)


@pytest.mark.parametrize(
    ("field", "most"),
    [
        ("local_steps", limits.LOCAL_STEPS_MAX),
        ("batch", limits.BATCH_MAX),
        ("sequence", limits.CONTEXT_MAX),
        ("warmup_steps", limits.WARMUP_STEPS_MAX),
        ("outer_rate_numerator", limits.RATE_MAX),
        ("outer_rate_denominator", limits.RATE_MAX),
        ("momentum_shift", limits.MOMENTUM_SHIFT_MAX),
    ],
)
def test_training_asks_for_no_more(field: str, most: int) -> None:
    changes: dict[str, Any] = {field: most}
    assert getattr(replace(TrainingConfig(), **changes), field) == most
    with pytest.raises(ConfigError, match=f"^{field} is {most + 1}, allowed are"):
        replace(TrainingConfig(), **{field: most + 1})


# --- what a payload says ---------------------------------------------------------------------------------------------------


def payload(*, exponent: int, quantum: int) -> bytes:
    """Each chunk has this exponent and begins with this value; the rest is zero."""
    quanta = np.zeros((LAYOUT.chunks, limits.CHUNK_VALUES), np.int8)
    quanta[:, 0] = quantum
    head = compression.probe(LAYOUT, 1)[: dense_int8._HEADER.size]
    return head + np.full(LAYOUT.chunks, exponent, np.int8).tobytes() + quanta.tobytes()


def test_an_exponent_is_within_its_range() -> None:
    for exponent in (limits.EXPONENT_MIN, limits.EXPONENT_MAX):
        assert set(compression.decode(payload(exponent=exponent, quantum=64), LAYOUT).exponents) == {exponent}
    for exponent in (limits.EXPONENT_MIN - 1, limits.EXPONENT_MAX + 1):
        with pytest.raises(PayloadError, match="exponent is out of range"):
            compression.decode(payload(exponent=exponent, quantum=64), LAYOUT)


def test_a_value_is_within_its_range() -> None:
    for quantum in (limits.QUANTUM_MAX, -limits.QUANTUM_MAX):
        assert compression.decode(payload(exponent=-20, quantum=quantum), LAYOUT).quanta[0, 0] == quantum
    with pytest.raises(PayloadError, match="-128"):
        compression.decode(payload(exponent=-20, quantum=-limits.QUANTUM_MAX - 1), LAYOUT)


def test_what_is_encoded_keeps_to_the_same_ranges() -> None:
    update = np.zeros(LAYOUT.values, np.float32)
    update[0], update[limits.CHUNK_VALUES] = 1e6, 1e-30
    made = compression.decode(compression.encode(update, LAYOUT), LAYOUT)
    assert (made.exponents[0], made.quanta[0, 0]) == (limits.EXPONENT_MAX, limits.QUANTUM_MAX)
    assert (made.exponents[1], made.quanta[1, 0]) == (limits.EXPONENT_MIN, 0)


def test_a_short_contribution_is_stretched_so_far_and_no_further() -> None:
    unit = 1 << limits.NORM_WEIGHT_BITS
    times = limits.NORM_WEIGHT_MAX // unit
    long = (4 * times) ** 2 << 20
    assert norm_weights([long // times**2, long, long]) == [limits.NORM_WEIGHT_MAX, unit, unit]
    assert norm_weights([long // (4 * times) ** 2, long, long]) == [limits.NORM_WEIGHT_MAX, unit, unit]


def test_so_many_contributions_are_added_up() -> None:
    one = compression.decode(payload(exponent=-20, quantum=64), LAYOUT)
    assert next(aggregate([one], [limits.WEIGHT_SUM_MAX]))[1][0, 0] == 64 * limits.WEIGHT_SUM_MAX << 20
    with pytest.raises(AssertionError):  # our own mistake: a block lists half as many
        next(aggregate([one], [limits.WEIGHT_SUM_MAX + 1]))


@pytest.mark.parametrize("sign", [1, -1])
def test_no_parameter_moves_further_in_one_round(sign: int) -> None:
    theta = np.zeros((1, limits.CHUNK_VALUES), np.float32)
    total = np.full(theta.shape, sign * 2**60, np.int64)
    outer_step(theta, None, total=total, count=1, training=TrainingConfig())
    assert set(theta[0]) == {np.float32(-sign * limits.STEP_MAX * 2.0**-limits.UPDATE_BITS)}


# --- files -----------------------------------------------------------------------------------------------------------------


def test_a_size_file_is_a_page(tmp_path: Path) -> None:
    file, page = tmp_path / "size.json", json.dumps(PRESETS["tiny"].to_dict()).encode()
    file.write_bytes(page.ljust(limits.CONFIG_BYTES_MAX))
    assert ModelConfig.named(str(file)) == PRESETS["tiny"]
    file.write_bytes(page.ljust(limits.CONFIG_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="larger than"):
        ModelConfig.named(str(file))


def test_a_text_is_no_larger() -> None:
    nowhere = Path("text")  # not looked at before a batch is asked for
    assert Corpus(CorpusFile(nowhere, limits.CORPUS_BYTES_MAX)).tokens == limits.CORPUS_BYTES_MAX
    with pytest.raises(CorpusError, match=f"larger than {limits.CORPUS_BYTES_MAX} bytes"):
        Corpus(CorpusFile(nowhere, limits.CORPUS_BYTES_MAX + 1))


def test_the_default_text_is_of_so_many_bytes_of_files_that_are_not_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    for name, byte, size in (
        ("a.py", b"a", limits.SOURCE_FILE_BYTES_MAX + 1),
        ("b.py", b"b", limits.SOURCE_FILE_BYTES_MAX),
    ):
        (tmp_path / name).write_bytes(byte * size)
    assert default_corpus() == b"b" * limits.SOURCE_FILE_BYTES_MAX
    for number in range(limits.DEFAULT_CORPUS_BYTES // limits.SOURCE_FILE_BYTES_MAX):
        (tmp_path / f"c{number}.py").write_bytes(b"c" * limits.SOURCE_FILE_BYTES_MAX)
    assert len(default_corpus()) == limits.DEFAULT_CORPUS_BYTES


def test_a_snapshot_has_a_header_of_names_and_shapes(tmp_path: Path) -> None:
    """The library that reads it takes headers of a hundred megabytes."""
    file = tmp_path / "snapshot"

    def read(size: int) -> dict[str, str]:
        file.write_bytes(struct.pack("<Q", size) + b'{"__metadata__":{"height":"7"}}'.ljust(size))
        return read_metadata(file)

    assert read(limits.SNAPSHOT_HEADER_BYTES_MAX) == {"height": "7"}
    with pytest.raises(SnapshotError, match="a header of"):
        read(limits.SNAPSHOT_HEADER_BYTES_MAX + 1)
