"""pykcmctl setup, ended by a signal."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pykcm.cli.installation import Setup
from pykcm.cli.setup import apply, setup_command
from tests.cli.setup.systems import Recorder, files_in


def test_interrupted_setup_says_what_to_do(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(argv: Sequence[str]) -> bool:
        if "is-enabled" in argv:
            return False
        raise KeyboardInterrupt

    monkeypatch.setattr("pykcm.cli.setup.run_command", interrupt)
    assert setup_command.callback is not None
    with pytest.raises(KeyboardInterrupt):
        setup_command.callback(wants_apply=True, wants_undo=False, root=setup.root)
    assert "setup: interrupted. Some steps may be done: run `" in capsys.readouterr().err


def test_interrupted_setup_leaves_no_unfinished_file(
    setup: Setup, run: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal comes before the rename of a new file."""

    def interrupt(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        apply(setup, run)
    assert files_in(setup.root) == set()
