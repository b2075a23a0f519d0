"""The corpus runs without a crash, and each target finds a mistake in the code that it tests."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fuzz.__main__ import main
from fuzz.targets import CORPUS, TARGETS
from pykcm.protocol import messages
from pykcm.protocol.framing import Frame, FrameReader
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.tag import Tag
from pykcm.protocol.wire import FormatError, Reader
from pykcm.server import operations
from pykcm.store import documents, tree

LARGEST_ENTRY = 8192

every_target = pytest.mark.parametrize("name", TARGETS)


def entries(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


def test_every_folder_has_a_target() -> None:
    """The corpus has a folder for each target, and no other."""
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@every_target
def test_no_input_of_the_corpus_crashes(name: str) -> None:
    """No input of the corpus crashes, and some are accepted."""
    accepted = [TARGETS[name].attempt(path.read_bytes()) for path in entries(name)]
    assert sum(accepted) >= 2


@every_target
def test_inputs_of_the_corpus_are_small(name: str) -> None:
    """Inputs are short enough to be read by a person."""
    assert 0 < max(path.stat().st_size for path in entries(name)) <= LARGEST_ENTRY


@every_target
def test_truncated_and_changed_inputs_do_not_crash(name: str) -> None:
    """An input that is cut, or that has another byte in one place, does not crash."""
    target = TARGETS[name]
    data = min((path.read_bytes() for path in entries(name)), key=lambda entry: abs(len(entry) - 300))
    for place in range(0, len(data), 1 + len(data) // 200):
        target.attempt(data[:place])
        target.attempt(data[:place] + bytes([data[place] ^ 0x81]) + data[place + 1 :])


def test_corpus_has_a_request_of_every_operation() -> None:
    """Every operation with arguments has a request in the corpus that is accepted."""
    target = TARGETS["requests"]
    kept = [path.read_bytes() for path in entries("requests")]
    accepted = {int.from_bytes(data[2:4]) for data in kept if target.attempt(data)}
    assert accepted >= {opcode for opcode, fields in messages.ARGUMENTS.items() if fields}


# Mistakes that the targets must find


def _frames_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_first(reader: FrameReader, data: bytes) -> list[Frame]:
        first = reader.take(data)
        return [] if first is None else [first]

    monkeypatch.setattr("fuzz.targets.all_frames", only_first)


def _other_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def data(self: Reader) -> bytes:
        raise IndexError

    monkeypatch.setattr(Reader, "data", data)


def _wrong_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tag, "matches", lambda *_: True)


def _offset_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    ccache_document = documents.CCacheDocument

    def forgetful(version: int, kdc_offset: int, principal: Any, label: str | None) -> Any:
        return ccache_document(version, 0, principal, label)

    monkeypatch.setattr(documents, "CCacheDocument", forgetful)


def _text_misread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "from_text", lambda text: b"x" + text.encode())


def _wrong_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "uid_of_container", lambda _: 7)


def _failing_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    found = operations.OPERATIONS[Opcode.GET_PRINCIPAL]
    monkeypatch.setitem(operations.OPERATIONS, Opcode.GET_PRINCIPAL, replace(found, run=broken))


MISTAKES = {
    "frames": _frames_lost,
    "requests": _other_exception,
    "credentials": _other_exception,
    "tags": _wrong_match,
    "ccache_documents": _text_misread,
    "default_documents": _text_misread,
    "names": _wrong_uid,
    "restore": _offset_lost,
    "service": _failing_operation,
}


@every_target
def test_target_finds_a_mistake(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mistake in the code that a target tests, one of its inputs in the corpus crashes."""
    MISTAKES[name](monkeypatch)
    crashed = []
    for path in entries(name):
        try:
            TARGETS[name].attempt(path.read_bytes())
        except Exception as crash:  # noqa: BLE001 - any is a crash
            crashed.append(crash)
    assert crashed
    assert not any(isinstance(crash, TARGETS[name].allowed) for crash in crashed)


# The command


def test_again_runs_one_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--again runs one input for the target that its folder is named after, and prints the result."""
    accepted = entries("credentials")[0]
    assert main(["--again", str(accepted)]) == 0
    assert "credentials: the input is accepted" in capsys.readouterr().out
    broken = tmp_path / "credentials" / "crash-1"
    broken.parent.mkdir()
    broken.write_bytes(accepted.read_bytes()[:-1])
    assert main(["--again", str(broken)]) == 0
    assert "credentials: the input is refused" in capsys.readouterr().out
    assert main(["--again", str(tmp_path / "crash-1")]) == 2
    assert "frames, requests" in capsys.readouterr().out


def test_again_shows_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that crashes raises its exception."""
    _other_exception(monkeypatch)
    with pytest.raises(IndexError):
        main(["--again", str(entries("credentials")[0])])


def test_missing_atheris_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without atheris the command prints this, and its exit status is 3."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["1"]) == 3
    assert "atheris is not installed" in capsys.readouterr().out


def test_crash_is_reported_with_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A crash is reported with the command that repeats it, and the other targets still run."""
    crashes = tmp_path / "crashes folder"
    ran: list[str] = []

    def atheris(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        ran.append(name)
        if name == "tags":
            (crashes / name / "crash-1").touch()
            return subprocess.CompletedProcess([], 77, "IndexError: it was here\n")
        return subprocess.CompletedProcess([], 0, "stat::number_of_executed_units: 42\n")

    monkeypatch.setattr("fuzz.__main__._atheris", atheris)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert main(["9", "--found", str(tmp_path / "found"), "--crashes", str(crashes)]) == 1
    assert ran == list(TARGETS)
    output = capsys.readouterr().out
    assert "IndexError: it was here" in output
    assert f"scripts/fuzz --again '{crashes}/tags/crash-1'" in output
    assert "fuzz: service: 42 inputs, nothing crashed" in output
    assert output.endswith("fuzz: crashed: tags\n")


@pytest.mark.parametrize("options", [[], ["--runs", "1", "1"], ["--target", "nothing", "1"], ["soon"]])
def test_wrong_options_are_usage_errors(options: list[str]) -> None:
    """Wrong options end with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2


def test_requests_may_only_raise_format_errors() -> None:
    """The decoder of requests may raise FormatError, and no other exception."""
    assert TARGETS["requests"].allowed == (FormatError,)
