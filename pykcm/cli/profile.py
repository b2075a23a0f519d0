"""Parse krb5.conf and its includes as MIT's libkrb5 does, with the file and line of each value."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

# Deeper includes are taken for a circle.
_MAX_DEPTH = 16

_INCLUDED_NAME = re.compile(r"[A-Za-z0-9_-]+|(?!\.).*\.conf", re.ASCII | re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b"}
_SPACE = " \t\n\v\f\r"


class ProfileError(Exception):
    """libkrb5 refuses the configuration, so no Kerberos program works; the message has file and line."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}")
        self.file = file
        self.line = line


class Value(NamedTuple):
    """A value with its file and line (from 1)."""

    value: str
    file: str
    line: int


class Profile:
    """The top-level relations of all sections; `files` are the files that were read, in that order."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.values: dict[tuple[str, str], Value] = {}
        self.final: set[str] = set()

    def get(self, section: str, name: str) -> Value | None:
        """The effective value, which is the first one."""
        return self.values.get((section, name))

    def add(self, section: str, name: str, value: Value) -> None:
        self.values.setdefault((section, name), value)

    def add_file(self, other: "Profile") -> None:
        """Add the next file of KRB5_CONFIG, except for sections that an earlier file marked as final."""
        self.files += other.files
        for (section, name), value in other.values.items():
            if section not in self.final:
                self.add(section, name, value)
        self.final |= other.final

    def close(self, section: str) -> None:
        self.final.add(section)


def read_profile(files: Sequence[str], real: Callable[[str], Path]) -> Profile:
    """Read the files of KRB5_CONFIG; missing ones are skipped. Raises ProfileError.

    `real` maps a path of the machine that is examined to one that can be opened.
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
    """Parser for one file. An included file has its own, and shares only the profile with it."""

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
        # splitlines() would split at more characters than libkrb5 does.
        for number, line in enumerate(text.split("\n"), 1):
            self._line = number
            self._parse_line(line)

    def _error(self, reason: str) -> ProfileError:
        return ProfileError(self._file, self._line, reason)

    def _parse_line(self, line: str) -> None:
        for directive, include in (("include", self._include), ("includedir", self._include_folder)):
            if line.startswith(directive) and line[len(directive) :][:1] in tuple(_SPACE):
                include(line[len(directive) :].strip(_SPACE))
                return
        if self._section is None and not line.startswith("["):
            return  # libkrb5 ignores lines before the first section
        text = line.strip(_SPACE)
        if self._wants_brace:
            if text != "{":
                raise self._error("missing {")
            self._wants_brace = False
        elif not text or text[0] in ";#":
            return
        elif text[0] == "[":
            self._begin_section(text)
        elif text[0] == "}":
            if not self._groups:
                raise self._error("unexpected }")
            self._groups -= 1
        else:
            self._relation(text)

    def _begin_section(self, text: str) -> None:
        if self._groups:
            raise self._error("a section begins inside a group: } is missing")
        name, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise self._error("missing ]")
        self._section = name
        if rest.startswith("*"):
            self._profile.close(name)
            rest = rest[1:]
        if rest.strip(_SPACE):
            raise self._error("unexpected text after the section's name")

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
        if self._depth >= _MAX_DEPTH:
            raise self._error(f"{path} includes itself")
        if not path.startswith("/"):
            raise self._error(f"{path!r} is not an absolute path")
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
    """The text before the closing quotation mark."""
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
