"""Search for secrets in every form in which they could be written."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# The part of the base64 form that does not depend on the neighbouring bytes.
_WHOLE = 3


def forms_of(secret: bytes) -> Iterator[bytes]:
    """Raw, hexadecimal, base64 at each offset, and as Python, JSON and pykcm's log escape it."""
    yield secret
    for text in (secret.hex(), secret.hex(" "), secret.hex(":")):
        yield text.encode()
        yield text.upper().encode()
    for offset in range(_WHOLE):
        inner = secret[offset : offset + (len(secret) - offset) // _WHOLE * _WHOLE]
        yield base64.b64encode(inner)
        yield base64.urlsafe_b64encode(inner)
    yield repr(secret)[2:-1].encode()
    yield repr(list(secret))[1:-1].encode()
    yield "".join(f"\\x{byte:02x}" for byte in secret).encode()
    text = secret.decode("utf-8", "backslashreplace")
    yield text.encode()
    yield repr(text)[1:-1].encode()
    yield secret.decode("latin-1").encode()


def traces(places: Mapping[str, bytes], secrets: Mapping[str, bytes]) -> list[str]:
    """The secrets that were found and their places, as text for a failed assertion."""
    return [
        f"{name} in {place}"
        for place, content in places.items()
        for name, secret in secrets.items()
        if any(form in content for form in forms_of(secret))
    ]


def files_below(folders: Iterable[Path]) -> dict[str, bytes]:
    """The content of each file, by its path."""
    return {
        str(path): path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def process_files(pid: int) -> dict[str, bytes]:
    """The public files of a process in /proc, and its environment."""
    return {
        path: Path(path).read_bytes()
        for path in (f"/proc/{pid}/environ", f"/proc/{pid}/cmdline", f"/proc/{pid}/comm")
    }
