"""`pykcmd --check` and `--show-config`: all mistakes of the configuration, and where each value is from."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from pykcm.config import OPTIONS, Config, ConfigError, checked_value, config_files, load_config, read_toml

_NUMBER = re.compile(r"\s*-?\d+\s*", re.ASCII)


def mistakes(file: Path | None = None) -> list[str]:
    """Return a message for each mistake of each file, in the order in which the files are read."""
    try:
        files = config_files(file)
    except ConfigError as error:
        return [str(error)]
    return [message for path in files for message in _mistakes_of(path)]


def _mistakes_of(path: Path) -> list[str]:
    try:
        options = read_toml(path)
    except ConfigError as error:
        return [str(error)]
    messages = []
    for name, value in options.items():
        line = _line_of(path, name)
        source = f"{path}:{line}" if line else str(path)
        if isinstance(value, dict) and name not in OPTIONS:
            messages.append(
                f"{source}: section [{name}]: there are no sections, as sssd.conf has them; "
                "put the options at the top level, under their names in pykcm.toml(5)"
            )
            continue
        try:
            checked_value(source, name, value)
        except ConfigError as error:
            messages.append(f"{error}{_hint(value)}")
    return messages


def _hint(value: Any) -> str:
    is_number = isinstance(value, str) and _NUMBER.fullmatch(value)
    return f"; a number has no quotes: {value.strip()}" if is_number else ""


def _line_of(path: Path, name: str) -> int | None:
    """Return the line where an option or section begins; tomllib does not give lines of values."""
    quoted = rf"[\"']?{re.escape(name)}[\"']?"
    start = re.compile(rf"\s*(?:{quoted}\s*[=.]|\[\[?\s*{quoted}\s*[].])")
    lines = path.read_text("utf-8").splitlines()
    return next((number for number, line in enumerate(lines, 1) if start.match(line)), None)


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
    return f"{name} = {json.dumps(value, ensure_ascii=False)}  # {origin}"


def report(file: Path | None, overrides: dict[str, Any], *, shows: bool) -> int:
    """Print the mistakes, or the values if there are none; returns the exit status. Raises ConfigError."""
    found = mistakes(file)
    lines = found or values(file, overrides)
    if found or shows:
        sys.stdout.write("\n".join(lines) + "\n")
    return 1 if found else 0
