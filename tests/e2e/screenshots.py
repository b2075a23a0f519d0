"""Pictures of a terminal with the output of pykcmctl, from a real daemon and a fixed scenario.

usage: python -m tests.e2e.screenshots FOLDER

Writes pykcmctl-list.svg and pykcmctl-watch.svg. `list` shows expiries in words, as distances from now.
The clock times of `watch` are replaced by fixed ones. Two runs therefore give the same text.
"""

import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from pykcm.protocol.principal import Principal
from tests.builders import credential_bytes

from .conftest import public_folder, watched
from .daemon import LIMIT
from .host import REALM, USERS, Host, kinit, read

_WIDTH = 80
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

# Rich's own format loads a font from another host.
_FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" class="rich-terminal" viewBox="0 0 {width} {height}" role="img">
<style>
.{unique_id}-matrix {{
    font-family: "DejaVu Sans Mono", Consolas, Menlo, monospace;
    font-size: {char_height}px;
    line-height: {line_height}px;
}}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; font-weight: bold; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def credential(user: str, server: tuple[bytes, ...], *, age: int = 0, renewed: int = 0, lives: int) -> bytes:
    """A ticket, with times in seconds: since when it exists, was renewed, and until when it is valid."""
    now = int(time.time())
    return credential_bytes(
        Principal(2, REALM, server),
        Principal(1, REALM, (user.encode(),)),
        times=(now - age, now - renewed, now + lives, now + 7 * _DAY),
    )


def tgt(user: str, *, age: int = 0, renewed: int = 0, lives: int) -> bytes:
    return credential(user, (b"krbtgt", REALM), age=age, renewed=renewed, lives=lives)


def log_in(kcm: KcmClient, user: str, name: str, *credentials: bytes) -> None:
    kcm.replace(f"{USERS[user]}{name}".encode(), 0, Principal(1, REALM, (user.encode(),)), list(credentials))


def show_list(host: Host) -> str:
    """Four users: one with two ccaches, one who is renewed, one whose tickets end soon, one who is late."""
    with host.kcm(USERS["alice"]) as kcm:
        web = credential("alice", (b"HTTP", b"intranet.example.com"), lives=9 * _HOUR)
        nfs = credential("alice", (b"nfs", b"files.example.com"), lives=9 * _HOUR)
        log_in(kcm, "alice", "", tgt("alice", lives=9 * _HOUR + 30 * _MINUTE), web, nfs)
        log_in(kcm, "alice", ":build", tgt("alice", lives=3 * _HOUR + 30 * _MINUTE))
    with host.kcm(USERS["bob"]) as kcm:
        log_in(kcm, "bob", "", tgt("bob", age=_HOUR, renewed=10 * _MINUTE, lives=7 * _HOUR + 30 * _MINUTE))
    with host.kcm(USERS["carol"]) as kcm:
        log_in(kcm, "carol", "", tgt("carol", age=10 * _HOUR, renewed=10 * _HOUR, lives=12 * _MINUTE + 30))
    with host.kcm(USERS["dave"]) as kcm:
        log_in(kcm, "dave", "", tgt("dave", age=_DAY, renewed=_DAY, lives=-2 * _HOUR - 30 * _MINUTE))
    process, terminal = host.pykcmctl(["list"])
    screen = read(terminal)
    os.close(terminal)
    assert process.wait(LIMIT) == 0, screen
    return screen


def show_watch(host: Host) -> str:
    """A login, a ticket for a service, another ccache, a full quota, a logout and another user's login."""
    process, terminal = host.pykcmctl(["watch"])
    screen = read(terminal, "Ctrl-C.\r\n")
    with host.kcm(USERS["alice"]) as kcm:
        kinit(kcm, "alice", 10 * _HOUR)
        kcm.store(b"1000", credential("alice", (b"nfs", b"files.example.com"), lives=9 * _HOUR))
        kinit(kcm, "alice", 10 * _HOUR, ":build")
        with suppress(KcmError):
            kinit(kcm, "alice", 10 * _HOUR, ":backup")
        kcm.destroy(b"1000:build")
    with host.kcm(USERS["bob"]) as kcm:
        kinit(kcm, "bob", 10 * _HOUR)
    screen += read(terminal, "bob@EXAMPLE.COM\r\n")
    os.killpg(process.pid, signal.SIGINT)
    screen += read(terminal)
    os.close(terminal)
    assert process.wait(LIMIT) == 0, screen
    times = count(9 * _HOUR + 41 * _MINUTE)
    return re.sub(
        r"^\d\d:\d\d:\d\d\.\d{3}",
        lambda _: time.strftime("%H:%M:%S.000", time.gmtime(next(times))),
        screen.replace("^C", ""),
        flags=re.MULTILINE,
    )


# The name of each picture: the daemon's configuration, and a function that returns the terminal's contents.
SCREENS: dict[str, tuple[str, Callable[[Host], str]]] = {
    "list": ("", show_list),
    "watch": ("max_uid_ccaches = 2\n", show_watch),
}


@contextmanager
def running_host(toml: str) -> Iterator[Host]:
    with public_folder() as folder:
        host = Host(folder)
        with watched(host):
            host.begin(toml)
            yield host


def picture(name: str, screen: str) -> str:
    """The SVG of a terminal in which this command has printed these lines."""
    console = Console(
        file=io.StringIO(),
        width=_WIDTH,
        record=True,
        force_terminal=True,
        color_system="standard",
        legacy_windows=False,
    )
    console.print(Text(f"# pykcmctl {name}", style="bold"))
    console.print(Text.from_ansi(screen.replace("\r\n", "\n").rstrip("\n")))
    text = console.export_svg(
        title=f"pykcmctl {name}", theme=SVG_EXPORT_THEME, code_format=_FORMAT, unique_id=name
    )
    return "".join(f"{line.strip()}\n" for line in text.splitlines() if line.strip())


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (toml, show) in SCREENS.items():
        with running_host(toml) as host:
            (folder / f"pykcmctl-{name}.svg").write_text(picture(name, show(host)), encoding="utf-8")


if __name__ == "__main__":
    main()
