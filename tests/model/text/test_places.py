"""What a name means: files, in an order that does not depend on the disk, and each once."""

import os
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from model import limits
from model.errors import CorpusError
from model.text import places
from model.text.places import find


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "below/c.md", "below/deeper/d.py", ".hidden", ".git/e", "__pycache__/f.pyc"):
        path = tmp_path / "text" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "text"


def names(*given: Path) -> list[str]:
    return [place.path.name for place in find(given)]


def test_a_folder_means_what_is_below_it(folder: Path) -> None:
    assert names(folder) == ["a.txt", "b.txt", "c.md", "d.py"]
    assert not any(place.named for place in find([folder]))
    assert [place.size for place in find([folder])] == [5, 5, 10, 17]


def test_a_pattern_means_what_matches(folder: Path) -> None:
    assert names(folder / "*.txt") == ["a.txt", "b.txt"] and all(place.named for place in find([folder / "*.txt"]))
    assert names(folder / "**/*.py") == ["d.py"] and names(folder / "bel*") == ["c.md", "d.py"]
    (folder / "with [brackets].txt").write_text("x")
    assert names(folder / "with [brackets].txt") == ["with [brackets].txt"]


def test_several_names_in_their_order_and_no_file_twice(folder: Path) -> None:
    assert names(folder / "b.txt", folder) == ["b.txt", "a.txt", "c.md", "d.py"]
    (folder / "hard").hardlink_to(folder / "a.txt")
    assert names(folder / "a.txt", folder / "hard") == ["a.txt"]


def test_what_lies_in_a_folder_and_is_no_file_is_passed_over(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "nowhere").symlink_to("missing")
    (folder / "around").symlink_to(folder)
    assert names(folder) == ["a.txt", "b.txt", "c.md", "d.py"]
    (folder / "empty").mkdir()
    with pytest.raises(CorpusError, match="no files there"):
        find([folder / "empty"])


def test_the_home_of_a_node_is_nobodys_text(folder: Path) -> None:
    home = folder / "below" / "home"
    (home / "blobs").mkdir(parents=True)
    for name in ("node.key", "config.toml", "blobs/x"):
        (home / name).write_text("secret")
    assert names(folder) == ["a.txt", "b.txt", "c.md", "d.py"]


def test_a_name_that_means_nothing_is_one_line(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    for name, says in [
        (folder / "missing", "cannot be read"),
        (folder / "*.none", "nothing matches"),
        (folder / "pipe", "is not a regular file"),
        (folder / "loop", "cannot be read"),
        (folder / "a.txt" / "below", "cannot be read"),
        (Path("a\0b"), "is no path|cannot be read"),
        (Path("x" * 5000), "cannot be read|is no path"),
    ]:
        with pytest.raises(CorpusError, match=says) as caught:
            find([name])
        assert caught.value.hint and len(caught.value.message) < 6000, name


def test_a_folder_has_no_more_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each were there: a million files take a minute to make."""
    monkeypatch.setattr(places, "_meant", lambda name: ((name, False) for _ in range(int(name.name))))
    numbers = count()
    monkeypatch.setattr(places, "_status", lambda *_: SimpleNamespace(st_dev=1, st_ino=next(numbers), st_size=0))
    assert len(find([Path(str(limits.FILES_MAX))])) == limits.FILES_MAX
    with pytest.raises(CorpusError, match=f"more than {limits.FILES_MAX} files"):
        find([Path(str(limits.FILES_MAX + 1))])
