"""Settings: one order of sources, one line for every mistake, naming the place, the key and the repair."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.config import DEFAULT_LISTEN, Endpoint, load_config, parse_endpoint
from p2pnode.errors import ExitCode, UserError
from p2pnode.home import Home
from p2pnode.tokens import Token, token_text

TOKEN = token_text(Token(bytes(32), bytes(32), 7, bytes(32), bytes(64)))


def refusal(home: Home, *, environ: dict[str, str] | None = None, **flags: object) -> UserError:
    with pytest.raises(UserError) as caught:
        load_config({"home": home.path, **flags}, environ=environ or {})
    return caught.value


def test_defaults_need_nothing_on_disk(tmp_path: Path) -> None:
    config = load_config({"home": tmp_path / "none"}, environ={})
    assert (config.listen, config.size, config.train, config.policy) == (DEFAULT_LISTEN, "tiny", True, None)
    assert not config.given("listen")
    assert config.origin("home") == "--home"
    assert not (tmp_path / "none").exists()


def test_flag_before_environment_before_file_before_default(home: Home) -> None:
    home.config.write_text('name = "file"\nthreads = 3\nsize = "small"\n')
    config = load_config({"home": home.path, "name": "flag"}, environ={"P2PNODE_NAME": "env", "P2PNODE_THREADS": "2"})
    assert [(config.name, config.origin("name")), (config.threads, config.origin("threads"))] == [
        ("flag", "--name"),
        (2, "P2PNODE_THREADS"),
    ]
    assert (config.size, config.origin("size"), config.given("size")) == ("small", "config.toml", True)
    assert config.origin("device") == "default"


def test_every_setting_can_stand_in_the_file(home: Home) -> None:
    home.config.write_text(
        f"""
        name = "alice"
        device = "cuda:1"
        threads = 2
        bootstrap = ["192.0.2.1:7337", "[2001:db8::1]:7337", "192.0.2.1:7337"]
        listen = "0.0.0.0:7337"
        announce = "node.example.org:7337"
        upload_mbit = 20
        data = ["text/all.txt", "synthetic:1M", "more/*.md"]
        dataset = "wikitext-2"
        column = ["question", "answer"]
        pairs = false
        tokenizer = "mine.json"
        size = "base"
        moe = true
        precision = "bf16"
        compiled = true
        training = "training.json"
        train = false
        repl = false
        policy = "allowlist"
        allow = ["{"cd" * 32}"]
        threshold = 80
        invite = "{TOKEN}"
        checkpoint = "7:{"ef" * 32}"
        network = "{"ab" * 32}"
        log_level = "debug"
        """
    )
    config = load_config({"home": home.path}, environ={})
    assert config.bootstrap == (Endpoint("192.0.2.1", 7337), Endpoint("2001:db8::1", 7337))
    assert config.data == (home.path / "text/all.txt", "synthetic:1M", home.path / "more/*.md"), "relative to the home"
    assert (config.dataset, config.column, config.pairs) == (("wikitext-2",), ("question", "answer"), False)
    assert config.tokenizer == home.path / "mine.json"
    assert (config.train, config.repl, config.policy, config.log_level) == (False, False, "allowlist", "debug")
    assert config.upload_mbit == 20.0 and config.moe is True
    assert config.compiled is True
    assert (config.precision, config.training) == ("bf16", home.path / "training.json")
    assert (config.allow, config.threshold, config.invite) == (("cd" * 32,), 80, TOKEN)
    assert all(config.given(key) for key in config.shown())


def test_a_precision_that_the_device_does_not_have_is_refused_wherever_it_was_said(home: Home) -> None:
    assert load_config({"home": home.path, "precision": "fp16", "device": "cuda"}, environ={}).precision == "fp16"
    for flags, environ, place, code in [
        ({"precision": "fp16"}, {}, "--precision", ExitCode.USAGE),
        ({}, {"P2PNODE_PRECISION": "fp16"}, "P2PNODE_PRECISION", ExitCode.SET_UP),
    ]:
        with pytest.raises(UserError) as caught:
            load_config({"home": home.path, **flags}, environ=environ)
        assert caught.value.message == f"{place} fp16: fp16 on a CPU takes 19 times as long as bf16"
        assert "bf16" in caught.value.hint and caught.value.exit_code == code


def test_flags_of_a_list_and_a_switch(home: Home) -> None:
    config = load_config({"home": home.path, "bootstrap": ["[::1]:1"], "train": False}, environ={})
    assert config.bootstrap == (Endpoint("::1", 1),)
    assert (config.train, config.origin("train")) == (False, "--no-train")
    environ = {"P2PNODE_BOOTSTRAP": "192.0.2.1:1, 192.0.2.2:2", "P2PNODE_TRAIN": "no"}
    config = load_config({"home": home.path, "bootstrap": []}, environ=environ)
    assert [str(endpoint) for endpoint in config.bootstrap] == ["192.0.2.1:1", "192.0.2.2:2"]
    assert config.train is False


def test_the_prompt_opens_where_chosen_or_at_a_terminal(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def opens(**flags: object) -> bool:
        return load_config({"home": home.path, **flags}, environ={}).opens_repl

    assert [opens(), opens(repl=True), opens(repl=False)] == [False, True, False]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert [opens(), opens(repl=True), opens(repl=False)] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("name = 3", 1, "name 3: not valid", "it takes text"),
        ("\n\nthreads = 'many'", 3, "threads 'many': not valid", "it takes a whole number from 1 to 4096"),
        ("threads = true", 1, "threads True: not valid", "it takes a whole number from 1 to 4096"),
        ("upload_mbit = 0", 1, "upload_mbit 0: not valid", "it takes megabits a second"),
        ("upload_mbit = nan", 1, "upload_mbit nan: not valid", "it takes megabits a second"),
        ("upload_mbit = 'fast'", 1, "upload_mbit 'fast': not valid", "it takes megabits a second"),
        ("train = 1", 1, "train 1: not valid", "it takes true or false"),
        ("listen = '::1:7337'", 1, "listen '::1:7337': an IPv6 address needs brackets", "it takes HOST:PORT"),
        ("bootstrap = ['a:1',\n 'b']", 1, "bootstrap ['a:1', 'b']: not HOST:PORT", "it takes HOST:PORT"),
        (
            "bootstrap = ['0.0.0.0:1']",
            1,
            "bootstrap ['0.0.0.0:1']: not valid",
            "it takes an address that others can dial",
        ),
        ("policy = 'closed'", 1, "policy 'closed': not valid", "it takes open or invite or allowlist"),
        ("threshold = 101", 1, "threshold 101: not valid", "it takes a whole number from 67 to 100"),
        ("allow = ['abc']", 1, "allow ['abc']: not valid", "it takes public keys of 64 hexadecimal digits"),
        ("allow = 7", 1, "allow 7: not valid", "it takes public keys"),
        ("network = 'abc'", 1, "network 'abc': not valid", "it takes 64 hexadecimal digits"),
        ("device = 'tpu'", 1, "device 'tpu': not valid", "it takes cpu, cuda or cuda:N"),
        ("precision = 'fp8'", 1, "precision 'fp8': not valid", "it takes fp32 or bf16 or fp16"),
        ('name = "a\\u001b[31m"', 1, "name 'a\\x1b[31m': not valid", "it takes at most 64 printable characters"),
        ("# x\nthread = 1", 2, "thread: unknown setting", "did you mean threads?"),
        ("[network]\nid = 1", 1, "network {'id': 1}: not valid", "it takes text"),
        ("home = '/x'", 1, "home: unknown setting", "the home is chosen with --home or P2PNODE_HOME"),
        ("x = 1", 1, "x: unknown setting", "the settings are: name device"),
        ("name = 'a'\nname = 'b'", 2, "not valid TOML: cannot overwrite a value", "repair the line"),
        ("name = 'a'\nsize", 2, "not valid TOML: ", "repair the line"),
        ("name = ", 1, "not valid TOML: invalid value", "repair the line"),
    ],
)
def test_a_mistake_in_the_file_names_file_line_and_key(
    home: Home, text: str, line: int, message: str, hint: str
) -> None:
    home.config.write_text(text)
    error = refusal(home)
    assert error.message.lower().startswith(f"{home.config}:{line}: {message}".lower())
    assert error.hint.startswith(hint)
    assert error.exit_code == ExitCode.SET_UP


def test_a_file_that_is_no_settings_file(home: Home) -> None:
    home.config.write_bytes(b"name = 'a'\n\xff\xfe")
    assert refusal(home).message == f"{home.config}:2: not UTF-8 text"
    home.config.write_bytes(b"#" * 100_000)
    assert "longer than" in refusal(home).message
    home.config.unlink()
    home.config.mkdir()
    assert refusal(home).message == f"{home.config}: is a directory"


def test_a_threshold_below_two_thirds_is_refused_with_the_reason(home: Home) -> None:
    for wrong in ("66", "0", "50"):
        error = refusal(home, threshold=wrong)
        assert error.message.startswith(f"--threshold '{wrong}': with two thirds or less, two halves of a network")
        assert error.hint.startswith("it takes a whole number from 67 to 100")
    assert [load_config({"threshold": n}, environ={}).threshold for n in ("67", 100)] == [67, 100]


def test_a_checkpoint_is_what_status_prints(home: Home) -> None:
    text = f"1200:{'ab' * 32}"
    assert str(load_config({"checkpoint": text}, environ={}).checkpoint) == text
    home.config.write_text(f"checkpoint = '{text}'")
    assert str(load_config({"home": home.path}, environ={}).checkpoint) == text
    home.config.unlink()
    for wrong in ("1200", "x:y", f"0:{'ab' * 32}", f"1200:{'ab' * 31}"):
        error = refusal(home, checkpoint=wrong)
        assert error.message.startswith(f"--checkpoint '{wrong}': ") and error.exit_code == ExitCode.USAGE
        assert error.hint.startswith("it takes HEIGHT:HASH")


def test_allowed_keys_come_from_a_list_or_a_line(home: Home) -> None:
    keys = ["22" * 32, "11" * 32]
    assert load_config({"home": home.path, "allow": keys}, environ={}).allow == tuple(sorted(keys))
    assert load_config({"home": home.path}, environ={"P2PNODE_ALLOW": ", ".join(keys)}).allow == tuple(sorted(keys))


def test_a_torn_token_is_refused_with_the_reason(home: Home) -> None:
    error = refusal(home, invite=TOKEN[:-9])
    assert error.message.endswith("a part of it is missing")
    assert error.hint == "it takes a token as p2pnode invite prints it"


def test_a_mistake_in_a_flag_is_a_usage_error(home: Home) -> None:
    error = refusal(home, listen="nowhere")
    assert error.message == "--listen 'nowhere': not HOST:PORT"
    assert error.exit_code == ExitCode.USAGE
    error = refusal(home, environ={"P2PNODE_POLICY": "x"})
    assert (error.message, error.exit_code) == ("P2PNODE_POLICY 'x': not valid", ExitCode.SET_UP)


def test_a_misspelt_variable_is_refused_and_a_foreign_one_is_not(home: Home) -> None:
    error = refusal(home, environ={"P2PNODE_BOOTSTRP": "192.0.2.1:1"})
    assert (error.message, error.hint) == ("P2PNODE_BOOTSTRP: unknown setting", "did you mean P2PNODE_BOOTSTRAP?")
    load_config({"home": home.path}, environ={"P2PNODE_PORT_7337_TCP": "tcp://10.0.0.1:7337", "P2PNODE_NAME": ""})


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:7337", "node-1.example.org:65535", "localhost:1", "my_host:1"])
def test_endpoints_that_are_right_read_back(text: str) -> None:
    assert str(parse_endpoint(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":1",
            "a",
            "a:",
            "a:b",
            "a:65536",
            "a:-1",
            "a: 1",
            "1.2.3:1",
            "256.1.1.1:1",
            "[1.2.3.4]:1",
            "[::1]",
            "::1:1",
        ),
        *("[::1]:", "[::g]:1", "-a:1", "a-:1", "a..b:1", "a b:1", f"{'a' * 64}:1", "a:1\n", "http://a:1", "a/b:1"),
        "a:\u0661",  # a digit to str.isdigit, and none of ours
    ],
)
def test_endpoints_that_are_wrong_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST|port|brackets|address|name"):
        parse_endpoint(text)


@given(st.text(alphabet="a1.:[]-\n", max_size=20))
def test_whatever_is_accepted_reads_back_the_same(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except ValueError:
        return
    assert parse_endpoint(str(endpoint)) == endpoint


def test_loopback_is_known() -> None:
    assert Endpoint("127.9.9.9", 1).loopback
    assert Endpoint("::1", 1).loopback
    assert Endpoint("localhost", 1).loopback
    assert not Endpoint("0.0.0.0", 1).loopback
    assert not Endpoint("example.org", 1).loopback
