"""Tables on terminals of different widths."""

from collections.abc import Iterator

import pytest

from pykcm.cli import output
from pykcm.cli.output import Column, print_line, print_rows

NAME = "KCM:1000:a16056df"
COLUMNS = [
    Column("User"),
    Column("UID", is_number=True),
    Column("Ccache"),
    Column("Principal"),
    Column(""),
    Column("Size", is_number=True),
    Column("TGT expires", is_time=True),
    Column("Renewable until", is_time=True),
]
ROW = ["alice", "1000", NAME, "alice@PYKCM.TEST", "*", "1.5 KiB", "2026-11-22 17:04", "2026-11-29 17:04"]


def table(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    print_rows(COLUMNS, [ROW])
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
def test_narrow_terminal_shows_all_cells(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However narrow the terminal is, no cell is cut, and none is folded into single letters."""
    lines = [line for line in table(width, monkeypatch, capsys) if line.strip()]
    text = "".join(lines)
    for cell in ROW:
        parts = cell.split() if cell.startswith("20") else [cell[:12]]
        assert all(part in text for part in parts), cell


def test_table_fits_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = table(80, monkeypatch, capsys)
    assert max(map(len, lines)) <= 80
    assert any("KCM:1000:a16" in line for line in lines)


def test_wide_terminal_folds_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert any(all(cell in line for cell in ROW) for line in table(140, monkeypatch, capsys))


LONG = "pykcmctl: /run/x: no daemon answers: it has ended; start it with `systemctl start pykcm.socket` now"


def test_message_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(LONG, err=True)
    assert capsys.readouterr().err == f"{LONG}\n"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_message_on_a_terminal_breaks_no_word_and_no_command(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Further lines are indented below the message, and a command of several words stays in one line."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    print_line(LONG, err=True)
    first, *others = capsys.readouterr().err.splitlines()
    assert others
    assert max(map(len, [first, *others])) <= max(width, len("          `systemctl start pykcm.socket`"))
    assert all(line.startswith(" " * len("pykcmctl: ")) for line in others)
    assert " ".join([first, *(line.strip() for line in others)]) == LONG
    assert any("`systemctl start pykcm.socket`" in line for line in others)


def test_rows_before_an_error_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables are printed for many rows at once."""

    def rows() -> Iterator[list[str]]:
        yield ROW
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "is_terminal", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        print_rows(COLUMNS, rows())
    assert ROW[0] in capsys.readouterr().out
