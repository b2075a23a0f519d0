"""The documents for engineers: the files that they name exist, their lists and the drawing are complete."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
DOCUMENTS = ("CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/decisions.md")

sys.path.append(str(ROOT / "man"))

from drawing import FILE, STEPS, USERS, Step, drawing  # noqa: E402

_PATH = re.compile(r"`((?:\.?[\w-]+/)*[\w.-]*(?:/|\.\w+))`|`(scripts/[\w-]+)`")
_NAMED_IN = re.compile(r"`(\w+)` of `([\w/.-]+\.\w+)`")


def paths_in(text: str) -> set[str]:
    """Everything in a document's code that looks like a path, without placeholders."""
    found = {first or second for first, second in _PATH.findall(text)}
    return {path for path in found if "NAME" not in path and "/" in path}


def section(title: str) -> str:
    """The text below a heading of CONTRIBUTING.md."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", CONTRIBUTING.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document: str) -> None:
    """Each path in the document exists in the project, or in pykcm."""
    found = paths_in((ROOT / document).read_text())
    assert [
        path for path in sorted(found) if not any((ROOT / top / path).exists() for top in ("", "pykcm"))
    ] == []


def test_missing_files_are_found() -> None:
    """Paths of files, folders and scripts are recognised; names of options and functions are not."""
    text = (
        "`pykcm/a.py` `fuzz/` `.ci/run.x` `scripts/x` `man/NAME.rst` `max_ccaches` `Engine.read` `a/b` `KCM:`"
    )
    assert paths_in(text) == {"pykcm/a.py", "fuzz/", ".ci/run.x", "scripts/x"}


def test_named_identifiers_are_in_their_files() -> None:
    """Where CONTRIBUTING.md says that a name is in a file, the file has it."""
    found = _NAMED_IN.findall(CONTRIBUTING.read_text().replace("\n", " "))
    assert len(found) >= 3
    assert [(name, path) for name, path in found if name not in (ROOT / path).read_text()] == []


@pytest.mark.parametrize(
    ("title", "example", "others"),
    [
        ("Add an opcode", r"\bMOVE_CACHE\b", {"pykcm/control/trace_format.py", "fuzz/corpus/requests/"}),
        ("Add an option", r"\bmax_uid_credentials\b", {"CHANGELOG.md"}),
        ("Add a command of pykcmctl", r"^ {4}renewing,$|_USER_REQUESTS =", {"pykcm/cli/user_client.py"}),
        ("Add a store", r"\bMemoryStore\b|\"memory\"", {"tests/conftest.py"}),
    ],
)
def test_lists_name_every_place(title: str, example: str, others: set[str]) -> None:
    """A list names each file of pykcm/ that mentions an existing addition of its kind."""
    mentioning = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob("pykcm/**/*.py")
        if re.search(example, path.read_text(), re.MULTILINE)
    }
    assert mentioning
    text = section(title)
    # An attribute of this name, and a daemon that is started with the store.
    places = (mentioning | others) - {"pykcm/server/outbox.py", "pykcm/testing/server.py"}
    assert [path for path in sorted(places) if f"`{path}`" not in text] == []


def test_every_script_is_described() -> None:
    """CONTRIBUTING.md names each program in scripts/."""
    programs = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix}
    assert {name for name in programs if f"`scripts/{name}`" not in CONTRIBUTING.read_text()} == set()


def test_table_of_tests_names_commands() -> None:
    """Each command in the table of durations names a script, and tests that exist."""
    rows = re.findall(r"^\| `([^` ]+)([^`\n]*)`.* \|$", section("How long the tests take"), re.MULTILINE)
    assert len(rows) >= 9
    assert [row for row in rows if not (ROOT / row[0]).is_file()] == []
    folders = [words.split()[0] for _, words in rows if words]
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


# The drawing and the decisions


def test_kept_drawing_is_that_of_its_data() -> None:
    """docs/request.svg is what `python man/drawing.py` makes."""
    assert FILE.read_text(encoding="utf-8") == drawing()


@pytest.mark.parametrize(
    ("module", "name"),
    [*((step.module, step.name) for step in STEPS), *((each[0], each[1]) for each in USERS)],
)
def test_drawing_names_what_exists(module: str, name: str) -> None:
    """Each box of the drawing names a module, and a class, function or table that it defines."""
    text = (ROOT / "pykcm" / module).read_text()
    assert re.search(rf"^(?:class |def |async def )?{name}\b(?:[:(]| [:=])", text, re.MULTILINE)


@pytest.mark.parametrize("step", STEPS)
def test_steps_are_in_their_folders(step: Step) -> None:
    assert step.module.startswith(f"{step.folder}/")


def test_drawing_has_every_room_of_the_way() -> None:
    """The drawing has each folder of pykcm/ that serves the KCM socket."""
    others = {"cli", "renew", "control", "testing"}
    rooms = {path.parent.name for path in ROOT.glob("pykcm/*/__init__.py")} - others
    assert {step.folder for step in STEPS} == rooms


def test_drawing_loads_nothing() -> None:
    assert set(re.findall(r"\w+://[^\s\"')]+", drawing())) == {"http://www.w3.org/2000/svg"}


def test_decisions_are_short_and_complete() -> None:
    """Each decision has its context, the decision, figures and consequences, in under 120 words."""
    notes = re.split(r"^## ", (ROOT / "docs/decisions.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(notes) >= 10
    for note in notes:
        title = note.partition("\n")[0]
        parts = re.findall(r"^\*\*(\w+)\.\*\* ", note, re.MULTILINE)
        assert parts == ["Context", "Decision", "Figures", "Consequences"], title
        assert len(note.split()) < 120, title
        assert re.search(r"\*\*Figures\.\*\*.*\d", note), title
