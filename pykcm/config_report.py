"""`pykcmd --check` and `--show-config`: all mistakes of the configuration, and where each value is from."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pykcm.config import (
    OPTIONS,
    Config,
    ConfigError,
    checked_value,
    config_files,
    contradictions,
    load_config,
    read_toml,
)

_HEADER = re.compile(r"\s*\[\[?\s*[\"']?([^]\"']*?)[\"']?\s*\]")
_KEY = re.compile(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*[=.]")

# Passwords in libpq's connection strings of both forms: "password=…" and "postgresql://user:…@host".
_PASSWORD = re.compile(
    r"((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)|(?<=://)([^/@:]*:)([^/@]*)(?=@)", re.IGNORECASE
)
_HIDDEN = "***"


def mistakes(file: Path | None = None) -> list[str]:
    """Return a message for each mistake of each file, in the order in which the files are read."""
    try:
        files = config_files(file)
    except ConfigError as error:
        return [str(error)]
    messages: list[str] = []
    options: dict[str, Any] = {}
    for path in files:
        try:
            found = read_toml(path)
        except ConfigError as error:
            messages.append(str(error))
            continue
        messages += _mistakes_of(path, found, _lines_of(path))
        options |= found
    return [*messages, *contradictions(options)]


def _mistakes_of(
    path: Path, options: dict[str, Any], lines: dict[tuple[str, str], int], section: str = ""
) -> Iterator[str]:
    for name, value in options.items():
        is_section = isinstance(value, dict) and name not in OPTIONS
        line = lines.get((name, "") if is_section else (section, name)) or lines.get((section, name))
        source = f"{path}:{line}" if line else str(path)
        try:
            checked_value(source, name, value)
        except ConfigError as error:
            yield str(error)
        if is_section:
            yield from _mistakes_of(path, value, lines, name)


def _lines_of(path: Path) -> dict[tuple[str, str], int]:
    """Return the lines by section and option, sections themselves with "": tomllib does not give them."""
    section = ""
    lines: dict[tuple[str, str], int] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if header := _HEADER.match(line):
            section = header[1]
            lines.setdefault((section, ""), number)
        elif key := _KEY.match(line):
            lines.setdefault((section, key[1]), number)
    return lines


def values(file: Path | None, overrides: dict[str, Any]) -> list[str]:
    """Return a TOML line for each option, with the file that its value is from; raises ConfigError."""
    config = load_config(file, overrides)
    origins = {name: str(path) for path in config_files(file) for name in read_toml(path)}
    origins |= {name: "command line" for name, value in overrides.items() if value is not None}
    return [_line(config, name, origins.get(name, "default")) for name in OPTIONS]


def _line(config: Config, name: str, origin: str) -> str:
    value = getattr(config, name)
    if value is None:
        return f"# {name} is not set"
    if name == "postgresql":
        value = without_passwords(value)
    return f"{name} = {json.dumps(value, ensure_ascii=False)}  # {origin}"


def without_passwords(connection_string: str) -> str:
    """Return a connection string of libpq with its passwords hidden."""
    return _PASSWORD.sub(lambda found: f"{found[1] or found[3]}{_HIDDEN}", connection_string)


def report(file: Path | None, overrides: dict[str, Any], *, shows: bool) -> int:
    """Print the mistakes, or the values if there are none; returns the exit status. Raises ConfigError."""
    found = mistakes(file)
    lines = found or values(file, overrides)
    if found or shows:
        sys.stdout.write("\n".join(lines) + "\n")
    return 1 if found else 0
