"""Hostile names and texts in the output of each command: none acts on a terminal or forges a line."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pykcm.cli import listing, output, showing, tables
from pykcm.cli.doctor.command import all_groups
from pykcm.cli.doctor.results import Check, Level, Result
from pykcm.cli.main import main
from pykcm.protocol.text import escape, escape_path, excerpt, is_visible, printable
from tests.cli.answers import TEXTS, answering, items, list_answer, sendable

hostile_text = pytest.mark.parametrize("text", TEXTS, ids=ascii)


def assert_harmless(text: str, *, separators: str = "") -> None:
    for line in text.split("\n"):
        assert all(is_visible(c) or c in separators for c in line), ascii(line)
    text.encode()


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Run:
    """Runs pykcmctl in this process, with a fake daemon that sends the given answer."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str, answer: list[object] | None = None) -> tuple[str, str]:
        path = self._folder / "control.sock"
        self._monkeypatch.setattr(sys, "argv", ["pykcmctl", "--socket", str(path), *arguments])
        with (
            answering(path, *(answer or [{"end": {}}]), at_end="migrate" in arguments),
            pytest.raises(SystemExit),
        ):
            main()
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        assert_harmless(err)
        return out, err


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(tmp_path, monkeypatch, capsys)


@hostile_text
@pytest.mark.parametrize("terminal", [False, True])
def test_list_is_harmless(run: Run, text: str, monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
    """Each ccache is one line with the same number of columns; tables interpret no markup."""
    for module in (listing, tables):
        monkeypatch.setattr(module, "is_terminal", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "1000")
    out, _ = run("list", "--label", "--wide", answer=list_answer(text))
    if terminal:
        assert_harmless(out)
        assert "[red]" in out or "[red]" not in text
        assert ":smile:" in out or ":smile:" not in text
    else:
        assert_harmless(out, separators="\t")
        rows = out.splitlines()
        assert [row.count("\t") for row in rows] == [10, 10]
        assert all(row.startswith("4000000000\t4000000000\t") for row in rows)


@hostile_text
def test_list_json_is_harmless(run: Run, text: str) -> None:
    """JSON is valid, keeps the names, and does not act on a terminal either."""
    out, _ = run("list", "--json", answer=list_answer(text))
    assert_harmless(out)
    (first, _) = json.loads(out)
    assert first["name"] == "KCM:" + escape(text.encode("utf-8", "surrogatepass"))
    assert first["label"] == sendable(text)


@hostile_text
def test_show_is_harmless(run: Run, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = {
        "tickets": 1,
        "expires": None,
        "tgt_expires": None,
        "renew_till": None,
        "last_renewal": None,
        "name": text.encode("utf-8", "surrogatepass"),
        "default": True,
        "current_default": True,
        "uuid": bytes(16),
        "uid": 4_000_000_000,
        "principal": sendable(text),
        "kdc_offset": 0,
        "label": sendable(text),
        "size": 3,
        "principal_type": 1,
        "realm": text.encode("utf-8", "surrogatepass"),
        "components": [text.encode("utf-8", "surrogatepass")],
    }
    credential = {
        "configuration": False,
        "times": [0, 0, 0, 0],
        "server": sendable(text),
        "client": sendable(text),
        "enctype": 18,
        "flags": 0,
        "size": 3,
        "uuid": bytes(16),
        "payload": b"",
    }
    answer = items(
        {"ccache": head}, {"credential": credential}, {"credential": {**credential, "configuration": True}}
    )
    out, _ = run("show", "KCM:x", answer=answer)
    assert_harmless(out, separators="\t")
    # Six lines of the header and the KDC offset, a note, a ticket and an entry.
    assert len(out.splitlines()) == 10
    monkeypatch.setattr(showing, "is_terminal", lambda: True)
    monkeypatch.setattr(tables, "is_terminal", lambda: True)
    assert_harmless(run("show", "KCM:x", answer=answer)[0])
    out, _ = run("show", "KCM:x", "--json", answer=answer)
    assert_harmless(out)
    assert json.loads(out)["principal"] == sendable(text)
    out, _ = run("show", "KCM:x", "--json", "--with-secrets", answer=answer)
    assert_harmless(out)
    realm: str = json.loads(out)["principal"]["realm"]
    assert realm.encode("utf-8", "surrogateescape") == text.encode("utf-8", "surrogatepass")


EVENT = {"time": 0.25, "event": "refused", "uid": 4_000_000_000, "reason": "EDQUOT"}
EXCHANGE = {
    "time": 0.25,
    "uid": 4_000_000_000,
    "pid": 1,
    "operation": "RETRIEVE",
    "code": "OK",
    "duration": 0.1,
    "request_size": 1,
    "reply_size": 1,
}


@hostile_text
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_watch_and_trace_are_harmless(run: Run, text: str, options: list[str]) -> None:
    name, said = text.encode("utf-8", "surrogatepass"), sendable(text)
    event = EVENT | {"ccache": name, "principal": said, "detail": said}
    out, _ = run("watch", *options, answer=items({"size": 0}, event))
    assert_harmless(out)
    assert len(out.splitlines()) == 1
    asked = {"server": said, "to": name, "match": [said]}
    exchange = EXCHANGE | {"ccache": name, "asked": asked, "answered": {"name": name}, "reason": said}
    out, _ = run("trace", *options, answer=items({"size": 0}, exchange))
    assert_harmless(out)
    assert len(out.splitlines()) == 1


@hostile_text
def test_final_messages_are_harmless(run: Run, text: str, tmp_path: Path) -> None:
    """Ccaches that were left out, paths of keys, and errors may contain anything."""
    name, said = text.encode("utf-8", "surrogatepass"), sendable(text)
    left_out = {"left_out": {"uid": 1, "name": name, "reason": said}}
    for options in ([], ["--json"]):
        file = str(tmp_path / f"export{len(options)}")
        out, err = run("export", "--plain", *options, file, answer=items({"count": 1}, left_out))
        assert_harmless(out)
        assert len(err.splitlines()) == 2 - len(options)
    out, _ = run("destroy", "--yes", "--uid", "1", answer=items({"uid": 1, "name": name}))
    assert_harmless(out)
    assert len(out.splitlines()) == 1
    pending = {"pending": True, "credential": False, "place": said, "key": said}
    _, err = run("rekey", answer=items(**pending))
    assert err.count("\n    ") == 3
    _, err = run("rekey", answer=items(**pending | {"pending": False}))
    assert len(err.splitlines()) == 2
    _, err = run("list", answer=[{"error": {"code": "internal", "message": said}}])
    assert len(err.splitlines()) == 1
    _, err = run("list", answer=[{"error": {"code": said, "message": "a"}}])
    assert len(err.splitlines()) == 1


@hostile_text
@pytest.mark.parametrize(
    "arguments", [["list"], ["show", "a"], ["import"], ["destroy", "--uid"], ["backup"], []]
)
def test_usage_errors_are_harmless(run: Run, text: str, arguments: list[str]) -> None:
    """A shell makes arguments of file names, and click quotes some of them unchanged."""
    word = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape").replace("\0", "")
    for argument in (word, f"--{word}"):
        _, err = run(*arguments, argument, argument)
        assert not any(line.startswith("imported") for line in err.split("\n"))


@hostile_text
@pytest.mark.parametrize("source", ["", "FILE:", "DIR:", "KCM:"])
def test_import_source_is_harmless(run: Run, text: str, source: str, tmp_path: Path) -> None:
    """A missing or invalid source is named on one line."""
    folder = os.fsdecode(
        os.fsencode(tmp_path) + b"/" + text.encode("utf-8", "surrogatepass").replace(b"\0", b"")
    )
    _, err = run("import", f"{source}{folder}")
    assert err
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    Path(folder).write_bytes(b"junk")
    _, err = run("import", f"{source}{folder}")
    assert err


@hostile_text
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_migrate_is_harmless(run: Run, text: str, options: list[str], tmp_path: Path) -> None:
    """Each file has one row, whatever its name is and whether it can be read."""
    name = text.encode("utf-8", "surrogatepass").replace(b"\0", b"").replace(b"/", b"")
    folder = tmp_path / "f"
    folder.mkdir()
    path = os.fsdecode(os.fsencode(folder) + b"/cc_" + name)
    Path(path).write_bytes(b"junk")
    result = {
        "result": "imported",
        "uid": 4_000_000_000,
        "name": name,
        "principal": sendable(text),
        "reason": sendable(text),
        "default": False,
    }
    answer = items({"ccache": result})
    out, _ = run(
        "migrate",
        "--from",
        "files",
        "--uid",
        str(os.geteuid()),
        "--path",
        f"{folder}/cc_*",
        *options,
        answer=answer,
    )
    if options:
        assert_harmless(out)
        rows = [row for row in json.loads(out) if row["result"] == "imported" or str(folder) in row["name"]]
        assert f"FILE:{escape_path(path)}" in [row["name"] for row in rows]
    else:
        assert_harmless(out, separators="\t")
        assert {line.count("\t") for line in out.splitlines()} == {5}
        mine = [line for line in out.splitlines() if str(folder) in line or line.startswith("imported")]
        assert len(mine) == 2


@hostile_text
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_doctor_is_harmless(
    run: Run, text: str, options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Environment variables, krb5.conf and results are shown on one line each, with remedies to paste."""
    raw = text.encode("utf-8", "surrogatepass").replace(b"\0", b"")
    conf = tmp_path / "krb5.conf"
    conf.write_bytes(
        b"[libdefaults]\n default_ccache_name = FILE:"
        + raw.replace(b"\n", b"")
        + b"\n kcm_socket = /"
        + raw.replace(b"\n", b"")
    )
    monkeypatch.setenv("KRB5CCNAME", os.fsdecode(raw))
    monkeypatch.setenv("KRB5_CONFIG", str(conf))
    out, _ = run("doctor", "--config", str(tmp_path / "none"), *options)
    assert_harmless(out)
    if options:
        assert "KRB5CCNAME" in [each["check"] for each in json.loads(out)]
    else:
        starts = tuple(f"  {level.value} " for level in Level)
        lines = [line for line in out.splitlines()[:-1] if line]
        headings = {"Problems", "Warnings", *all_groups()}
        assert all(line in headings or line.startswith((*starts, " " * 11)) for line in lines)

    conf.write_bytes(raw)
    monkeypatch.setenv("KRB5_CONFIG", f"{conf}:{tmp_path}/" + os.fsdecode(raw.replace(b"/", b"")))
    assert_harmless(run("doctor", "--config", str(tmp_path / "none"), *options)[0])


@hostile_text
def test_quoted_word_can_be_pasted(text: str, tmp_path: Path) -> None:
    """A quoted word is printable, and a shell reads the original word."""
    word = text.encode("utf-8", "surrogatepass").replace(b"\0", b"").decode("utf-8", "surrogateescape")
    shell_quote = output.shell_quote(word)
    assert_harmless(shell_quote)
    with os.popen(f"bash -c {output.shlex.quote(f'printf %s {shell_quote}')}") as shell:  # type: ignore[attr-defined]
        assert shell.buffer.read() == os.fsencode(word)  # type: ignore[attr-defined]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(), max_size=40), raw=st.binary(max_size=40))
def test_every_text_is_harmless(text: str, raw: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Any text becomes one line and one cell, JSON keeps its meaning, and escaping twice changes nothing."""
    escaped = printable(text)
    assert_harmless(escaped)
    assert printable(escaped) == escaped
    assert_harmless(excerpt(text * 100))
    assert printable(escape(raw)) == escape(raw)
    output.print_rows([output.Column("a"), output.Column("b")], [[text, escape(raw)]])
    output.print_line(text)
    row, line, rest = capsys.readouterr().out.split("\n")
    assert (row.count("\t"), rest) == (1, "")
    assert_harmless(row, separators="\t")
    assert_harmless(line)
    output.print_json({text: [text]})
    said = capsys.readouterr().out
    assert_harmless(said)
    assert json.loads(said) == {text: [text]}


def test_result_of_check_is_one_line(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    found = Result(Level.FAILED, "a\nok  b\x1b[2J", ("rm 'x\ny'",))
    monkeypatch.setattr(
        "pykcm.cli.doctor.command.all_groups", lambda: {"group": [Check("check", lambda _: found)]}
    )
    out, _ = run("doctor")
    assert_harmless(out)
    assert len(out.splitlines()) == 5
    said: list[dict[str, Any]] = json.loads(run("doctor", "--json")[0])
    assert said[0]["text"] == r"a\x0aok  b\x1b[2J"
