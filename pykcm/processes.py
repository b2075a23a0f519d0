"""Other processes, named for messages."""

from pathlib import Path

from pykcm.protocol.text import escape


def shown_process(pid: int) -> str:
    """`process 4711 (pykcmd)`, or without the command where that cannot be read."""
    try:
        command = Path(f"/proc/{pid}/comm").read_bytes().strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({escape(command)})"
