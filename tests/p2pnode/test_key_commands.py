"""key_commands.py: `id`, `export-key` and `import-key` as they are typed; what is data, what is talk, and what is refused."""

import json
from pathlib import Path

from p2pnode.home import Home
from tests.p2pnode.conftest import Cli


def test_a_key_moves_from_home_to_home(cli: Cli, tmp_path: Path) -> None:
    one, two, file = Home(tmp_path / "one"), Home(tmp_path / "two"), tmp_path / "key"
    node = json.loads(cli("id", "--json", home=one).stdout)["node"]
    done = cli("export-key", file, "--json", home=one)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"node": node, "file": str(file), "height": 0})
    assert done.stderr.splitlines()[0].startswith(f"{one} votes no more; whoever has {file} is this node")
    for words in (["id"], ["export-key", tmp_path / "again"], ["init"], ["start", "--no-repl"]):
        refused = cli(*words, home=one)
        assert refused.returncode == 3 and f"its key has moved to {file}: nothing votes from here" in refused.stderr
    done = cli("import-key", file, home=two)
    assert done.returncode == 0 and done.stdout.splitlines()[0].split() == ["node", node]
    assert "ready in" in done.stderr
    assert json.loads(cli("id", "--json", home=two).stdout)["node"] == node
    assert not file.exists()
    assert cli("import-key", file, home=one).stderr.startswith(f"error: there is no file {file}\nhint: ")


def test_a_running_node_keeps_its_key(cli: Cli, tmp_path: Path) -> None:
    home = Home(tmp_path / "one")
    cli("id", home=home)
    with home.locked():
        refused = cli("export-key", tmp_path / "key", home=home)
    assert refused.returncode == 3 and "p2pnode stop ends it" in refused.stderr
    assert home.key.exists() and not (tmp_path / "key").exists()


def test_a_link_in_place_of_the_key_is_refused_in_one_line(cli: Cli, tmp_path: Path) -> None:
    home = Home(tmp_path / "one")
    cli("id", home=home)
    home.key.rename(tmp_path / "elsewhere")
    home.key.symlink_to(tmp_path / "elsewhere")
    refused = cli("id", home=home)
    assert refused.returncode == 3
    assert refused.stderr == f"error: the key file {home.key} is a symbolic link\nhint: put the file itself there\n"
