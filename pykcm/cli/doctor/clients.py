"""Checks of the clients' configuration: krb5.conf and environment variables."""

import re

from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Result, failed, ok, skipped, warning
from pykcm.cli.doctor.sockets import Listener, find_listener, process_name
from pykcm.cli.doctor.systemd import KCM_SOCKET
from pykcm.cli.output import shell_quote
from pykcm.cli.profile import ProfileError
from pykcm.config import DEFAULT_SOCKET

_PLAIN = "KCM:"
_FOLDER = "/etc/krb5.conf.d"
# The file that makes KCM the default: by its own name, and as packages and `pykcmctl setup` install it.
_SNIPPETS = (f"{_FOLDER}/kcm_default_ccache", f"{_FOLDER}/pykcm_default_ccache")
_MAIN = "/etc/krb5.conf"

# It may stand in the remedies of several checks: the second time it changes nothing.
_INCLUDE = (
    f"grep -qsE '^includedir[[:space:]]+{_FOLDER}/?[[:space:]]*$' {_MAIN} || "
    f"printf '\\nincludedir {_FOLDER}/\\n' >>{_MAIN}"
)

# Heimdal's programs and libraries, where distributions install them.
_HEIMDAL = (
    "usr/bin/kinit.heimdal",
    "usr/lib/heimdal/bin/kinit",
    "usr/lib/*/libkrb5.so.26",
    "usr/lib64/libkrb5.so.26",
)


def profile(environment: Environment) -> Result:
    """Check that libkrb5 can read its configuration."""
    try:
        files = environment.profile.files
    except ProfileError as error:
        remedy = f"${{EDITOR:-vi}} +{error.line} {shell_quote(error.file)}"
        if _FOLDER in str(error) and not environment.path(_FOLDER).exists():
            remedy = f"mkdir -p {_FOLDER}"
        return failed(f"{error}: no Kerberos program works with this", remedy)
    return ok(f"read from {', '.join(files)}" if files else "no krb5.conf: libkrb5 uses its defaults")


def socket_path(environment: Environment) -> Result:
    """Check that clients connect to the path where the daemon listens."""
    if not environment.daemon_is_here:
        return skipped("pykcm is not installed here: the socket comes from another machine")
    daemon_sockets = environment.daemon_sockets
    used = environment.client_socket
    setting = environment.profile.get("libdefaults", "kcm_socket")
    if used in daemon_sockets:
        return ok(f"clients connect to {used}, where the daemon listens")
    by_hand = _started_by_hand(environment)
    if by_hand is not None:
        return warning(
            f"clients connect to {used}, where {by_hand} listens because of its command line; the "
            f"configuration says {', '.join(daemon_sockets)}"
        )
    connects = "clients connect " + ("to no socket at all" if used == "-" else f"to {used}")
    listens = f"the daemon listens at {', '.join(daemon_sockets)}"
    if setting is not None:
        return failed(
            f"{connects} (kcm_socket in {setting.file}:{setting.line}), but {listens}",
            _replace(setting.file, "kcm_socket", daemon_sockets[0]),
        )
    return failed(
        f"{connects} (kcm_socket is not set), but {listens}",
        *_add(environment, f"{_FOLDER}/kcm_socket", "kcm_socket", daemon_sockets[0]),
    )


def _replace(file: str, key: str, value: str) -> str:
    """The command that sets an existing key, whatever its line: earlier remedies may have added lines."""
    # Escape the characters that are special in sed's replacement.
    wanted = re.sub(r"[\\&#\n]", r"\\\g<0>", value)
    script = rf"s#^([[:space:]]*{key}[[:space:]]*\*?[[:space:]]*=).*#\1 {wanted}#"
    return f"sed -E -i --follow-symlinks {shell_quote(script)} {shell_quote(file)}"


def _add(environment: Environment, file: str, key: str, value: str) -> tuple[str, ...]:
    """The commands that set a key which is set nowhere, in `file` of the included folder.

    An existing file is kept: it may be the one that pykcm installs.
    """
    line = f"printf '[libdefaults]\\n    {key} = %s\\n' {shell_quote(value)}"
    others = environment.variables.get("KRB5_CONFIG")
    if others:
        return (f"{line} >>{shell_quote((environment.profile.files or others.split(':'))[0])}",)
    has_key = False
    if environment.path(file).exists():
        text = environment.path(file).read_text(encoding="utf-8", errors="replace")
        has_key = re.search(rf"^\s*{key}\s*\*?\s*=", text, re.MULTILINE) is not None
    return (
        f"mkdir -p {_FOLDER}",
        _replace(file, key, value) if has_key else f"{line} >>{file}",
        *_missing_include(environment),
    )


def _started_by_hand(environment: Environment) -> Listener | None:
    """The pykcmd that listens where clients connect, against systemd's and its own configuration."""
    if environment.unit(KCM_SOCKET).loaded:
        return None
    try:
        listener = find_listener(environment.path(environment.client_socket))
    except OSError:
        return None
    return listener if listener.pid and process_name(listener.pid) == "pykcmd" else None


def default_ccache(environment: Environment) -> Result:
    """Check that programs use the KCM collection by default."""
    setting = environment.profile.get("libdefaults", "default_ccache_name")
    if setting is None:
        return failed(
            "default_ccache_name is not set: programs keep their tickets in libkrb5's built-in default",
            *_add(environment, _snippet_of(environment), "default_ccache_name", _PLAIN),
        )
    place = f"{setting.file}:{setting.line}"
    if setting.value == _PLAIN:
        return ok(f"{_PLAIN} ({place})")
    remedy = _replace(setting.file, "default_ccache_name", _PLAIN)
    if setting.value.startswith(_PLAIN):
        return failed(
            f"{setting.value} ({place}) is a single ccache: a second kinit overwrites the tickets "
            f"of the first one; {_PLAIN} is the whole collection",
            remedy,
        )
    return failed(f"{setting.value} ({place}): programs do not keep their tickets in KCM", remedy)


def ccache_variable(environment: Environment) -> Result:
    """Check that KRB5CCNAME does not override krb5.conf."""
    name = environment.variables.get("KRB5CCNAME")
    if not name:
        return ok("KRB5CCNAME is not set")
    if name == _PLAIN:
        return ok(f"KRB5CCNAME is {_PLAIN}")
    text = f"KRB5CCNAME is {name}: programs started from this shell use it instead of krb5.conf"
    return warning(text, "unset KRB5CCNAME")


def snippet(environment: Environment) -> Result:
    """Check that krb5.conf includes pykcm's file in /etc/krb5.conf.d."""
    if environment.variables.get("KRB5_CONFIG"):
        return skipped("KRB5_CONFIG names other files")
    file = _snippet_of(environment)
    if not environment.path(file).exists():
        return ok(f"{file} is not installed: see default_ccache_name")
    if file not in environment.profile.files:
        return failed(f"{file} exists, but {_MAIN} does not include it", *_missing_include(environment))
    return ok(f"{_MAIN} includes {file}")


def _snippet_of(environment: Environment) -> str:
    """The file that makes KCM the default and is installed, or its own name."""
    return next((file for file in _SNIPPETS if environment.path(file).exists()), _SNIPPETS[0])


def _missing_include(environment: Environment) -> tuple[str, ...]:
    """The command that makes krb5.conf include the folder, unless it does so already."""
    if environment.variables.get("KRB5_CONFIG"):
        return ()
    try:
        text = environment.path(_MAIN).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return (_INCLUDE,)
    included = any(
        line.split()[:2] in (["includedir", _FOLDER], ["includedir", f"{_FOLDER}/"])
        for line in text.splitlines()
    )
    return () if included else (_INCLUDE,)


def heimdal(environment: Environment) -> Result:
    """Check that Heimdal's programs, whose path is fixed, find the socket."""
    installed = [setting for pattern in _HEIMDAL for setting in environment.root.glob(pattern)]
    if not installed:
        return ok("Heimdal is not installed")
    daemon_sockets = (
        environment.daemon_sockets if environment.daemon_is_here else (environment.client_socket,)
    )
    standard = environment.path(DEFAULT_SOCKET)
    if DEFAULT_SOCKET in daemon_sockets or any(
        standard.exists() and environment.path(each).exists() and standard.samefile(environment.path(each))
        for each in daemon_sockets
    ):
        return ok(f"Heimdal's programs find {DEFAULT_SOCKET}")
    return warning(
        f"Heimdal is installed, and its programs connect only to {DEFAULT_SOCKET}: they do not find pykcm",
        f"ln -s {shell_quote(daemon_sockets[0])} {DEFAULT_SOCKET}",
    )


CHECKS = (
    Check("krb5.conf", profile),
    Check("kcm_socket", socket_path),
    Check("default_ccache_name", default_ccache),
    Check("KRB5CCNAME", ccache_variable),
    Check("krb5.conf.d", snippet),
    Check("Heimdal", heimdal),
)
