import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model import compression, snapshot
from model.config import ModelConfig, TrainingConfig
from model.errors import PayloadError, SnapshotError
from model.replica import Replica

CONFIG = ModelConfig(width=24, layers=1, heads=2, key_value_heads=1, feed_forward=200, context=16)
PLAIN = TrainingConfig()
MOMENTUM = TrainingConfig(momentum_numerator=7, momentum_shift=3, nesterov=True)


def stepped(training: TrainingConfig = PLAIN) -> Replica:
    replica = Replica.initial(CONFIG, training, seed=1)
    return replica.apply([compression.probe(replica.layout, seed) for seed in range(3)], [1, 1, 1])


def bytes_of(replica: Replica) -> bytes:
    return replica.read(0, replica.byte_length)


@pytest.mark.parametrize("training", [PLAIN, MOMENTUM])
def test_leaves_and_reads_are_the_canonical_bytes(training: TrainingConfig) -> None:
    replica = stepped(training)
    leaves = list(replica.leaves())
    assert all(len(leaf) == 65536 for leaf in leaves[:-1]) and 0 < len(leaves[-1]) <= 65536
    assert b"".join(leaves) == bytes_of(replica) and len(bytes_of(replica)) == replica.byte_length
    assert replica.read(65530, 100) == bytes_of(replica)[65530:65630]
    assert replica.read(replica.byte_length - 3, 100) == bytes_of(replica)[-3:]
    assert replica.read(replica.byte_length, 5) == b""
    expected = replica.theta.astype("<f4").tobytes()
    if replica.momentum is not None:
        expected += replica.momentum.astype("<i4").tobytes()
    assert bytes_of(replica) == expected


def test_a_replica_never_changes() -> None:
    replica = stepped()
    before = bytes_of(replica)
    with pytest.raises(ValueError):
        replica.theta[0] = 1
    assert all(leaf.readonly for leaf in replica.leaves())
    after = replica.apply([compression.probe(replica.layout, 9)], [1])
    assert bytes_of(replica) == before != bytes_of(after)


def test_one_bad_payload_and_nothing_has_happened() -> None:
    replica = stepped()
    good = compression.probe(replica.layout, 1)
    for bad in (b"", good[:-1], good + b"x", bytes(len(good))):
        for weights in ([1, 1], [1, 0]):
            with pytest.raises(PayloadError):
                replica.apply([good, bad], weights)


@pytest.mark.parametrize("training", [PLAIN, MOMENTUM])
def test_bytes_make_the_same_replica(training: TrainingConfig) -> None:
    replica = stepped(training)
    again = Replica.from_bytes(CONFIG, training, bytearray(bytes_of(replica)))
    payload = compression.probe(replica.layout, 4)
    assert bytes_of(again.apply([payload], [1])) == bytes_of(replica.apply([payload], [1]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0, 1e-40])
def test_bytes_that_are_not_canonical_are_refused(value: float) -> None:
    theta = stepped().theta.copy()
    theta[7] = value
    with pytest.raises(SnapshotError):
        Replica.from_bytes(CONFIG, PLAIN, theta.tobytes())


def test_bytes_of_another_length_or_with_padding_are_refused() -> None:
    replica = stepped()
    theta = replica.theta.copy()
    theta[replica.layout.padding[0]] = 1.0
    for wrong in (b"", bytes_of(replica)[:-4], bytes_of(replica) + bytes(4), theta.tobytes()):
        with pytest.raises(SnapshotError):
            Replica.from_bytes(CONFIG, PLAIN, wrong)
    with pytest.raises(SnapshotError):
        Replica.from_bytes(CONFIG, MOMENTUM, bytes_of(replica))


@pytest.mark.parametrize("training", [PLAIN, MOMENTUM])
def test_a_snapshot_is_the_replica(tmp_path: Path, training: TrainingConfig) -> None:
    path = tmp_path / "model.safetensors"
    replica = stepped(training)
    replica.save(path, {"height": "12"})
    loaded = Replica.load(path)
    assert bytes_of(loaded) == bytes_of(replica) and loaded.config == CONFIG and loaded.training == training
    assert snapshot.read_metadata(path) == {"height": "12"}
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_snapshot_is_what_others_call_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    replica = stepped()
    replica.save(path, {})
    tensors = load_file(path)
    assert list(tensors) and set(tensors) == {place.name for place in replica.layout.tensors}
    for place in replica.layout.tensors:
        values = replica.theta[place.offset : place.offset + place.count].reshape(place.shape)
        assert np.array_equal(tensors[place.name], values)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    stepped().save(path, {"height": "1"})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "save_file", full)
    with pytest.raises(OSError):
        stepped().save(path, {"height": "2"})
    assert snapshot.read_metadata(path) == {"height": "1"}
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_damaged_snapshot_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    stepped().save(path, {})
    content = path.read_bytes()
    damaged = [b"", b"\0" * 8, content[:100], content[:-1], content + b"x", b"\xff" * 8 + content[8:], b"hello" * 99]
    for number, wrong in enumerate(damaged):
        path.write_bytes(wrong)
        with pytest.raises(SnapshotError) as caught:
            Replica.load(path)
        assert str(path) in caught.value.message, number
    with pytest.raises(SnapshotError):
        Replica.load(tmp_path / "missing.safetensors")
    with pytest.raises(SnapshotError):
        Replica.load(tmp_path)


def test_a_snapshot_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    stepped().save(path, {})
    tensors = load_file(path)
    own = {"model_config": json.dumps(CONFIG.to_dict()), "training_config": json.dumps(PLAIN.to_dict())}
    name = "model.norm.weight"
    wider = replace(CONFIG, feed_forward=201)
    changes = [
        (tensors, {}),
        (tensors, own | {"model_config": "[]"}),
        (tensors, own | {"model_config": json.dumps(wider.to_dict())}),
        (tensors, own | {"training_config": json.dumps(MOMENTUM.to_dict())}),
        ({key: value for key, value in tensors.items() if key != name}, own),
        (tensors | {"more": tensors[name]}, own),
        (tensors | {name: tensors[name].astype(np.float64)}, own),
        (tensors | {name: tensors[name].reshape(1, -1)}, own),
        (tensors | {name: tensors[name] * np.nan}, own),
        (tensors | {name: tensors[name] * -0.0}, own),
    ]
    for changed, metadata in changes:
        save_file(changed, path, metadata=metadata)
        with pytest.raises(SnapshotError):
            Replica.load(path)
