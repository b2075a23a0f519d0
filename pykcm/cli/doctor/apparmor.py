"""A check of AppArmor: profiles that keep programs from the KCM socket."""

import re
from collections.abc import Iterator
from pathlib import Path

from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Result, ok, skipped, warning
from pykcm.cli.output import shell_quote

_KERNEL = "sys/kernel/security/apparmor"
_POLICY = "/etc/apparmor.d"
# Profiles of programs that use Kerberos include it; its folder is for additions.
_ABSTRACTION = "abstractions/kerberosclient"

_INCLUDE = re.compile(r"^\s*#?include\s+(?:if\s+exists\s+)?[<\"]([^>\"]+)[>\"]", re.MULTILINE)
_COMPLAIN = re.compile(r"^[^#\n]*\bflags=\([^)]*\bcomplain\b[^)]*\)\s*\{", re.MULTILINE)

# A rule of a file with permission to write, and the parts of its path.
_RULE = re.compile(
    r"^[ \t]*(?:(?:audit|allow|owner|file)[ \t]+)*(?:\"(?P<quoted>[^\"\n]+)\"|(?P<path>[/@]\S*))"
    r"[ \t]+[a-zA-Z]*[wa][a-zA-Z]*[ \t]*,",
    re.MULTILINE,
)
_TOKEN = re.compile(r"@\{\w+\}|\*\*|\[[^]]*\]|.")

_MOST_NAMED = 5


def apparmor(environment: Environment) -> Result:
    """Check that AppArmor's profiles of programs that use Kerberos let them connect to the KCM socket."""
    kernel = environment.root / _KERNEL
    if not kernel.is_dir():
        return ok("the kernel does not use AppArmor")
    if (kernel / "features").is_dir() and not any(kernel.glob("features/network*/af_unix")):
        return ok("the kernel's AppArmor does not control Unix sockets")
    enforced = _enforced(kernel / "profiles")
    if enforced == 0:
        return ok("AppArmor enforces no profile")
    policy = environment.path(_POLICY)
    if not policy.is_dir():
        return skipped(f"{_POLICY} does not exist: its profiles cannot be examined")
    socket = environment.client_socket
    kept_away = [profile.name for profile in _profiles(policy) if not profile.allows(socket)]
    if not kept_away:
        return ok("AppArmor's profiles of programs that use Kerberos allow the KCM socket")
    more = len(kept_away) - _MOST_NAMED
    named = ", ".join(kept_away[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    return warning(
        f"AppArmor keeps programs from {socket}: these profiles in {_POLICY} do not allow it: {named}",
        *_remedy(environment, policy, socket),
    )


def _enforced(profiles: Path) -> int | None:
    """The number of enforced profiles in the kernel; None where only root may read it."""
    try:
        return profiles.read_text(encoding="utf-8", errors="replace").count("(enforce)")
    except OSError:
        return None


def _profiles(policy: Path) -> Iterator["_Profile"]:
    """The profiles that are enforced and whose programs use Kerberos."""
    for file in sorted(policy.iterdir()):
        if not file.is_file() or file.name.startswith("."):
            continue
        if any((policy / folder / file.name).exists() for folder in ("disable", "force-complain")):
            continue
        profile = _Profile(policy, file)
        if (policy / _ABSTRACTION) in profile.files and not _COMPLAIN.search(profile.texts[0]):
            yield profile


class _Profile:
    """The text of a profile's file and of all files that it includes."""

    def __init__(self, policy: Path, file: Path) -> None:
        self.name = file.name
        self.files: dict[Path, None] = {}
        self.texts: list[str] = []
        self._policy = policy
        self._read(file)

    def _read(self, file: Path) -> None:
        if file in self.files:
            return
        self.files[file] = None
        if file.is_dir():
            for each in sorted(file.iterdir()):
                if each.is_file() and not each.name.startswith("."):
                    self._read(each)
            return
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        self.texts.append(text)
        for name in _INCLUDE.findall(text):
            self._read(self._policy / name)

    def allows(self, path: str) -> bool:
        """Whether a rule lets the program write to the file at `path`, which connecting needs."""
        rules = (rule for text in self.texts for rule in _RULE.finditer(text))
        return any(_matches(rule["path"] or rule["quoted"], path) for rule in rules)


def _matches(pattern: str, path: str) -> bool:
    """Whether a path of an AppArmor rule matches; of variables, only @{run} has its value."""
    if not path.startswith(re.split(r"[@*?{\[\\]", pattern, maxsplit=1)[0]):
        return False
    parts, depth = [], 0
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        depth += (text == "{") - (text == "}")
        special = {"@{run}": "(?:/var)?/run", "**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")"}
        if text in special:
            parts.append(special[text])
        elif text.startswith("@{"):
            parts.append("[^/]*")
        elif text.startswith("["):
            parts.append(text)
        else:
            parts.append("|" if text == "," and depth else re.escape(text))
    try:
        return re.fullmatch("".join(parts), path) is not None
    except re.error:
        return False


def _remedy(environment: Environment, policy: Path, socket: str) -> tuple[str, ...]:
    """The commands that add the socket to the abstraction, in its folder if it includes that."""
    abstraction = policy / _ABSTRACTION
    folder = f"{_POLICY}/{_ABSTRACTION}.d"
    reload = (
        "systemctl reload apparmor.service"
        if environment.has_systemd
        else f"apparmor_parser --replace {_POLICY}"
    )
    line = f"printf '  %s rw,\\n' {shell_quote(socket)}"
    if f"{_ABSTRACTION}.d" in _INCLUDE.findall(abstraction.read_text(encoding="utf-8", errors="replace")):
        return f"mkdir -p {folder}", f"{line} >{folder}/pykcm", reload
    return f"{line} >>{_POLICY}/{_ABSTRACTION}", reload


CHECKS = (Check("AppArmor", apparmor),)
