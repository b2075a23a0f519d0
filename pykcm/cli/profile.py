"""krb5.conf as MIT's libkrb5 reads it, includes and all: which value counts, and where it stands."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

# Deeper includes are a circle.
_DEEPEST = 16

_INCLUDED_NAME = re.compile(r"[A-Za-z0-9_-]+|(?!\.).*\.conf", re.ASCII | re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b"}
_SPACE = " \t\n\v\f\r"


class ProfileError(Exception):
    """libkrb5 cannot use the configuration, and so no program of Kerberos works; the message says where."""

    def __init__(self, file: str, line: int, what: str) -> None:
        super().__init__(f"{file}:{line}: {what}")
        self.file = file
        self.line = line


class Value(NamedTuple):
    """A value, and where it stands; `line` counts from 1."""

    value: str
    file: str
    line: int


class Profile:
    """The relations of sections at the top level; `files` are those that were read, in their order."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.values: dict[tuple[str, str], Value] = {}
        self.final: set[str] = set()

    def get(self, section: str, name: str) -> Value | None:
        """What counts: the value that stands first."""
        return self.values.get((section, name))

    def add(self, section: str, name: str, value: Value) -> None:
        self.values.setdefault((section, name), value)

    def add_file(self, other: "Profile") -> None:
        """Those of a further file in KRB5_CONFIG, where no earlier one has closed the section."""
        self.files += other.files
        for (section, name), value in other.values.items():
            if section not in self.final:
                self.add(section, name, value)
        self.final |= other.final

    def close(self, section: str) -> None:
        self.final.add(section)


def read_profile(files: Sequence[str], real: Callable[[str], Path]) -> Profile:
    """`real` gives where a path of the machine can be opened. Files that are missing are passed over.

    Raises ProfileError.
    """
    profile = Profile()
    for file in files:
        try:
            text = _text(real(file))
        except (FileNotFoundError, PermissionError):
            continue
        one = Profile()
        _Parser(one, file, real, 0).parse(text)
        profile.add_file(one)
    return profile


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


class _Parser:
    """One file: fragments share sections, and nothing else."""

    def __init__(self, profile: Profile, file: str, real: Callable[[str], Path], depth: int) -> None:
        self._profile = profile
        self._file = file
        self._real = real
        self._depth = depth
        self._line = 0
        self._section: str | None = None
        self._groups = 0
        self._wants_brace = False
        profile.files.append(file)

    def parse(self, text: str) -> None:
        # splitlines() would know more ends of lines than libkrb5.
        for number, line in enumerate(text.split("\n"), 1):
            self._line = number
            self._parse_line(line)

    def _error(self, what: str) -> ProfileError:
        return ProfileError(self._file, self._line, what)

    def _parse_line(self, line: str) -> None:
        for directive, include in (("include", self._include), ("includedir", self._include_folder)):
            if line.startswith(directive) and line[len(directive) :][:1] in tuple(_SPACE):
                include(line[len(directive) :].strip(_SPACE))
                return
        if self._section is None and not line.startswith("["):
            return  # whatever stands before the first section is a comment
        text = line.strip(_SPACE)
        if self._wants_brace:
            if text != "{":
                raise self._error("a { is missing")
            self._wants_brace = False
        elif not text or text[0] in ";#":
            return
        elif text[0] == "[":
            self._begin_section(text)
        elif text[0] == "}":
            if not self._groups:
                raise self._error("a } too many")
            self._groups -= 1
        else:
            self._relation(text)

    def _begin_section(self, text: str) -> None:
        if self._groups:
            raise self._error("a section begins before the } of a group")
        name, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise self._error("a ] is missing")
        self._section = name
        if rest.startswith("*"):
            self._profile.close(name)
            rest = rest[1:]
        if rest.strip(_SPACE):
            raise self._error("something stands behind the section's name")

    def _relation(self, text: str) -> None:
        name, equals, value = text.partition("=")
        name = name.rstrip(_SPACE)
        if not equals or not name or any(c in _SPACE for c in name):
            raise self._error("neither a section nor `name = value`")
        value = value.strip(_SPACE)
        if value in ("", "{"):
            self._groups += 1
            self._wants_brace = not value
            return
        if value.startswith('"'):
            value = _unquoted(value[1:])
        if not self._groups:
            assert self._section is not None
            place = Value(value, self._file, self._line)
            self._profile.add(self._section, name.partition("*")[0], place)

    def _include(self, path: str) -> None:
        if self._depth >= _DEEPEST:
            raise self._error(f"{path} includes itself")
        if not path.startswith("/"):
            raise self._error(f"{path!r} is no absolute path")
        try:
            text = _text(self._real(path))
        except OSError as error:
            raise self._error(f"{path} cannot be included: {error.strerror}") from None
        _Parser(self._profile, path, self._real, self._depth + 1).parse(text)

    def _include_folder(self, path: str) -> None:
        try:
            names = sorted(each.name for each in self._real(path).iterdir())
        except OSError as error:
            raise self._error(f"the folder {path} cannot be included: {error.strerror}") from None
        for name in names:
            if _INCLUDED_NAME.fullmatch(name):
                self._include(f"{path.rstrip('/')}/{name}")


def _unquoted(text: str) -> str:
    """What stands before the closing quotation mark."""
    result = []
    characters = iter(text)
    for character in characters:
        if character == '"':
            break
        if character == "\\":
            escaped = next(characters, "")
            result.append(_ESCAPES.get(escaped, escaped))
        else:
            result.append(character)
    return "".join(result)
