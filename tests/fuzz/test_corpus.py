"""The kept inputs go through their targets, and the targets find what they are there for."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

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
def test_the_corpus(name: str) -> None:
    """No kept input crashes, and some are accepted."""
    accepted = [TARGETS[name].attempt(path.read_bytes()) for path in entries(name)]
    assert sum(accepted) >= 2


@every_target
def test_the_corpus_is_small(name: str) -> None:
    """A kept input is short enough to be looked at."""
    assert 0 < max(path.stat().st_size for path in entries(name)) <= LARGEST_ENTRY


@every_target
def test_every_beginning(name: str) -> None:
    """Nor does an input that ends early, or that has another byte in one place."""
    target = TARGETS[name]
    data = min((path.read_bytes() for path in entries(name)), key=lambda entry: abs(len(entry) - 300))
    for at in range(0, len(data), 1 + len(data) // 200):
        target.attempt(data[:at])
        target.attempt(data[:at] + bytes([data[at] ^ 0x81]) + data[at + 1 :])


def test_requests_of_every_operation() -> None:
    """Every operation with arguments has a kept request that is accepted."""
    target = TARGETS["requests"]
    kept = [path.read_bytes() for path in entries("requests")]
    accepted = {int.from_bytes(data[2:4]) for data in kept if target.attempt(data)}
    assert accepted >= {opcode for opcode, fields in messages.ARGUMENTS.items() if fields}


# A target that finds nothing is no use: each must find a mistake


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


def _accident(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    found = operations.OPERATIONS[Opcode.GET_PRINCIPAL]
    monkeypatch.setitem(operations.OPERATIONS, Opcode.GET_PRINCIPAL, found._replace(run=broken))


MISTAKES = {
    "frames": _frames_lost,
    "requests": _other_exception,
    "credentials": _other_exception,
    "tags": _wrong_match,
    "ccache_documents": _text_misread,
    "default_documents": _text_misread,
    "names": _wrong_uid,
    "restore": _offset_lost,
    "service": _accident,
}


@every_target
def test_a_mistake_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mistake in what a target is about, one of its kept inputs crashes."""
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


def test_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--again runs one input for the target that its folder is named after, and tells what came of it."""
    accepted = entries("credentials")[0]
    assert main(["--again", str(accepted)]) == 0
    assert "credentials: accepted" in capsys.readouterr().out
    broken = tmp_path / "credentials" / "crash-1"
    broken.parent.mkdir()
    broken.write_bytes(accepted.read_bytes()[:-1])
    assert main(["--again", str(broken)]) == 0
    assert "credentials: refused" in capsys.readouterr().out
    assert main(["--again", str(tmp_path / "crash-1")]) == 2
    assert "frames, requests" in capsys.readouterr().out


def test_again_shows_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """What crashes does so again, with its traceback."""
    _other_exception(monkeypatch)
    with pytest.raises(IndexError):
        main(["--again", str(entries("credentials")[0])])


def test_without_atheris(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no atheris, the command says so and does not pretend to have run."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["1"]) == 3
    assert "atheris is not installed" in capsys.readouterr().out


def test_a_crash_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What crashes is told with the command that repeats it; the other targets run all the same."""
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
    said = capsys.readouterr().out
    assert "IndexError: it was here" in said
    assert f"scripts/fuzz --again '{crashes}/tags/crash-1'" in said
    assert "fuzz: service: 42 inputs, nothing crashed" in said
    assert said.endswith("fuzz: crashed: tags\n")


@pytest.mark.parametrize("options", [[], ["--runs", "1", "1"], ["--target", "nothing", "1"], ["soon"]])
def test_wrong_options(options: list[str]) -> None:
    """Options that make no sense end with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2


def test_format_errors_are_the_only_ones() -> None:
    """What a request decoder may raise is a format error and nothing wider."""
    assert TARGETS["requests"].allowed == (FormatError,)
