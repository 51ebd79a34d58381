"""Keys: files that others can read are refused, and verify never raises."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from transport.errors import UserError
from transport.identity import Identity, node_id, short_id, verify


def test_a_created_key_is_private_and_loads_again(tmp_path: Path) -> None:
    created = Identity.create(tmp_path / "node.key")
    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600
    loaded = Identity.load(tmp_path / "node.key")
    assert loaded.public_key == created.public_key
    assert loaded.sign(b"x") == created.sign(b"x")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_key_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    Identity.create(path)
    path.chmod(mode)
    with pytest.raises(UserError, match=r"others can read the key file .* \(mode 0") as caught:
        Identity.load(path)
    assert caught.value.hint == f"chmod 600 {path}"
    assert "\n" not in caught.value.message


def test_a_key_is_its_owners_own_file_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link, pipe = tmp_path / "node.key", tmp_path / "link", tmp_path / "pipe"
    Identity.create(path)
    link.symlink_to(path)
    with pytest.raises(UserError, match="symbolic link"):
        Identity.load(link)
    with pytest.raises(UserError, match="exists already"):
        Identity.create(link)
    os.mkfifo(pipe, 0o600)
    for other in (pipe, tmp_path):
        with pytest.raises(UserError, match="is no file"):
            Identity.load(other)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)  # another user's key cannot be made without root
    with pytest.raises(UserError, match=rf"belongs to user {os.getuid()}, not to you"):
        Identity.load(path)


def test_a_key_is_private_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        Identity.create(tmp_path / "node.key")
    finally:
        os.umask(before)
    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600


def test_half_a_secret_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot write the key file"):
        Identity.create(tmp_path / "node.key")
    assert not (tmp_path / "node.key").exists()


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"00" * 31, b"\xff" * 64, b"00" * 64])
def test_a_damaged_key_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        Identity.load(path)


def test_a_missing_key_and_an_existing_one_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no key file"):
        Identity.load(tmp_path / "none")
    Identity.create(tmp_path / "one")
    with pytest.raises(UserError, match="exists already"):
        Identity.create(tmp_path / "one")
    with pytest.raises(UserError, match="cannot write"):
        Identity.create(tmp_path / "no" / "folder")


def test_the_private_half_is_never_shown() -> None:
    identity = Identity(bytes(range(32)))
    assert repr(identity) == f"Identity({identity.node_id})"
    assert len(identity.node_id) == 40
    assert short_id(identity.public_key) == node_id(identity.public_key)[:10]


def test_a_signature_counts_for_its_key_and_message_only() -> None:
    alice, bob = Identity.generate(), Identity.generate()
    signature = alice.sign(b"message")
    assert verify(alice.public_key, b"message", signature)
    assert not verify(bob.public_key, b"message", signature)
    assert not verify(alice.public_key, b"massage", signature)
    assert not verify(alice.public_key, b"message", signature[:-1] + bytes((signature[-1] ^ 1,)))


# The points of small order, encoded: with these for a key, one signature would fit many messages.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_keys_of_small_order_verify_nothing(key: str) -> None:
    forged = bytes.fromhex(SMALL_ORDER[0]) + bytes(32)
    assert not any(verify(bytes.fromhex(key), bytes((n,)), forged) for n in range(32))


@given(some.binary(max_size=70), some.binary(max_size=40), some.binary(max_size=70))
def test_verify_never_raises(key: bytes, message: bytes, signature: bytes) -> None:
    assert not verify(key, message, signature)
