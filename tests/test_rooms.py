"""The rooms of pykcm: which may import which, how long a module is, and its names and sentences."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in (ROOT / "pykcm").rglob("*.py")
}
MOST_LINES = 400

# Small modules that know nothing of the rooms above protocol.
COMMON = {"interrupts", "logs", "processes", "streams"}

# The modules that each room may import, besides its own. A name includes everything below it.
# Rooms that handle credentials without opcodes and replies need only some modules of protocol.
ALLOWED: dict[str, set[str]] = {
    "protocol": set(),
    "ccaches": {"protocol"},
    "peer": {"protocol", *COMMON},
    "sockets": {"protocol.text", *COMMON},
    # The shared store has its connection from the configuration, also for `pykcmctl store`, without a daemon.
    "store": {"protocol.codes", "protocol.principal", "config", *COMMON},
    "engine": {
        *("ccaches", "store"),
        *("protocol.codes", "protocol.credential", "protocol.principal", "protocol.text"),
        *COMMON,
    },
    "server": {"engine", "ccaches", "peer", "protocol", "sockets", "store.interface", *COMMON},
    "control": {
        *("config", "engine", "ccaches", "peer", "protocol", "sockets", "store.interface", "store.copies"),
        # It counts the server's connections and requests, and traces requests.
        *("server.connections", "server.dispatcher", "server.fair_queue"),
        *COMMON,
    },
    "cli": {
        *("ccaches", "client", "config", "control", "peer", "protocol", "sockets", "store.disk"),
        # `pykcmctl store` reaches the shared store's database without a daemon.
        *("store.postgresql", "store.interface", "store.moving", "store.offline"),
        *COMMON,
    },
    # A program of its own. It makes requests of the control socket, and needs nothing of the daemon.
    "renew": {
        *("config", "control.frames", "control.messages", "peer.identity", "protocol.text", "protocol.wire"),
        *("sockets.systemd", *COMMON),
    },
    # For applications' tests: it starts pykcmd as a program, and imports nothing of the daemon.
    "testing": {"client", "cli.client"},
    "client": {"protocol", "sockets.connecting"},
    "config": set(),
    "interrupts": set(),
    "logs": {"protocol.text"},
    "processes": {"logs", "protocol.text"},
    "streams": set(),
}

# The names before the rooms were made: of classes and variables, and of modules.
OLD_NAMES = {
    *("Residents", "Lanes", "Rota", "Census", "Turn", "Standstill", "Beside", "Taker", "Incoming"),
    *("IncomingError", "Trouble", "succession", "successor", "befores", "keeping", "changing"),
    *("how", "shown", "meant", "told", "whose", "beside"),
}
OLD_MODULES = {"admin", "beside", "changing", "feed", "keeping", "rota", "sighting", "succession", "words"}


def module_of(path: str) -> str:
    return path.removeprefix("pykcm/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


NAMES = {module_of(path): tree for path, tree in MODULES.items()}


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Yield the modules of pykcm that one imports anywhere, also in functions and for annotations alone."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found = [each.name for each in names]
            case ast.ImportFrom(module=str(module), names=names, level=0):
                found = [module, *(f"{module}.{each.name}" for each in names)]
            case _:
                continue
        for name in found:
            if name.startswith("pykcm.") and name.removeprefix("pykcm.") in NAMES:
                yield name.removeprefix("pykcm.")


IMPORTS = {name: set(imports_of(tree)) - {name} for name, tree in NAMES.items()}


def imports_from(room: str) -> Iterator[tuple[str, str]]:
    """Yield each import in a room: the importing module and the imported one."""
    return ((name, imported) for name in NAMES if is_within(name, {room}) for imported in IMPORTS[name])


def is_within(name: str, parts: AbstractSet[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_point_down(room: str) -> None:
    """A room imports only what the table allows."""
    found = {
        (name, imported)
        for name, imported in imports_from(room)
        if not is_within(imported, ALLOWED[room] | {room})
    }
    assert found == set()


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_no_permission_is_unused(room: str) -> None:
    """Each room imports every module that it may import, except the small common ones."""
    imported = [imported for _, imported in imports_from(room)]
    used = {each for each in ALLOWED[room] if any(is_within(name, {each}) for name in imported)}
    assert used == ALLOWED[room] - (COMMON - used)


def test_every_room_has_its_rule() -> None:
    """No package of pykcm is without a line in the table."""
    assert {name.partition(".")[0] for name in NAMES if "." in name} <= set(ALLOWED)


def test_pytest_is_imported_by_the_plugin_alone() -> None:
    """No program of pykcm needs pytest; only pytest itself imports the plugin."""
    using = {
        name
        for name, tree in NAMES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(each.name == "pytest" for each in node.names))
        or (isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in {"pytest", "_pytest"})
    }
    assert using == {"testing.plugin"}
    assert not [name for name in NAMES if "testing.plugin" in IMPORTS[name]]


def test_no_import_goes_in_circles() -> None:
    """No module needs itself, not even for annotations or in a function."""
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"imports go in a circle: {' -> '.join(error.args[1])}")


def test_modules_are_short() -> None:
    """No module of pykcm has more than 400 lines."""
    long = {path for path in MODULES if len((ROOT / path).read_text().splitlines()) > MOST_LINES}
    assert long == set()


def names_in(tree: ast.Module) -> Iterator[str]:
    """Yield every identifier."""
    for node in ast.walk(tree):
        for field in ("id", "name", "attr", "arg", "asname", "module"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield from name.split(".")


@pytest.mark.parametrize("folder", ["pykcm", "tests", "bench", "fuzz", "man"])
def test_no_old_name_is_left(folder: str) -> None:
    """No class, variable or module has a name that the field has a better word for."""
    # The tests' settle() is about event loops, and not about a pending key.
    old = OLD_NAMES | {"settle"} if folder == "pykcm" else OLD_NAMES
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / folder).rglob("*.py")
        for name in sorted({*names_in(ast.parse(path.read_text()))} & old)
        if path != Path(__file__)
    ]
    # Not the folders alone: bytecode of earlier versions may be left in them.
    modules = [
        path
        for path in (ROOT / folder).rglob("*.py")
        if OLD_MODULES & {path.stem.removeprefix("test_"), *path.relative_to(ROOT).parent.parts}
    ]
    assert (found, modules) == ([], [])


def texts_in(source: str) -> Iterator[str]:
    """Yield each docstring, and each comment, of which consecutive lines are one text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    comments = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    text: list[str] = []
    for token, following in pairwise([*comments, None]):
        assert token is not None
        text.append(token.string.lstrip("#: "))
        if following is None or following.start != (token.start[0] + 1, token.start[1]):
            yield " ".join(text)
            text = []


def noun_clauses_in(source: str) -> list[str]:
    """Return the beginnings of sentences that begin with What, Who and the like, except questions."""
    paragraphs = [
        " ".join(paragraph.split()) for text in texts_in(source) for paragraph in text.split("\n\n")
    ]
    sentences = (
        sentence for paragraph in paragraphs for sentence in re.findall(r"[^.:;?!]+[.:;?!]*", paragraph)
    )
    return [
        sentence.strip()
        for sentence in sentences
        if re.match(r"[\W_]*(?:What|Who|Whoever|Whatever|Whichever)\b", sentence) and "?" not in sentence
    ]


@pytest.mark.parametrize("path", MODULES)
def test_sentences_name_their_subject(path: str) -> None:
    """No sentence of a docstring or comment begins with a clause in place of a noun."""
    assert noun_clauses_in((ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""What is sent is stored."""', ["What is sent is stored."]),
        ('def f():\n    """Store it.\n\n    Whoever asks gets it.\n    """', ["Whoever asks gets it."]),
        ("# Stored. What is\n# sent twice is stored once.", ["What is sent twice is stored once."]),
        ("a = 1  # (Who asks gets it.)", ["(Who asks gets it."]),
        ('"""Ask: What is stored? Whether it is sent."""', []),
        ('"""Somebody\n\n    who asks whatever is asked."""', []),
        ('a = "What is sent is stored."', []),
    ],
)
def test_noun_clauses_are_found(source: str, expected: list[str]) -> None:
    """A sentence is found in docstrings and comments, over line ends; a question is none."""
    assert noun_clauses_in(source) == expected


def test_architecture_names_every_room() -> None:
    """docs/architecture.md names each folder of pykcm, and each module that it names exists."""
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)*(?:[a-z_]+\.py)?)`", text))
    packages = {
        path.removeprefix("pykcm/").removesuffix("__init__.py")
        for path in MODULES
        if path.endswith("__init__.py")
    }
    files = {name for name in named if name.endswith(".py") and not name.startswith("tests/")}
    assert packages - {""} - named == set()
    assert {name for name in files if f"pykcm/{name}" not in MODULES} == set()
