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
_SNIPPET = f"{_FOLDER}/kcm_default_ccache"
_MAIN = "/etc/krb5.conf"

_INCLUDE = f"sed -i '1i includedir {_FOLDER}/' {_MAIN}"

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
        return failed(
            f"{error}: no Kerberos program works with this",
            f"${{EDITOR:-vi}} +{error.line} {shell_quote(error.file)}",
        )
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
        # Escape the characters that are special in sed's replacement.
        wanted = re.sub(r"[\\&#\n]", r"\\\g<0>", daemon_sockets[0])
        return failed(
            f"{connects} (kcm_socket in {setting.file}:{setting.line}), but {listens}",
            f"sed -i {shell_quote(f'{setting.line}s#=.*#= {wanted}#')} {shell_quote(setting.file)}",
        )
    return failed(
        f"{connects} (kcm_socket is not set), but {listens}",
        f"printf '[libdefaults]\\n    kcm_socket = %s\\n' {shell_quote(daemon_sockets[0])} "
        f">{_FOLDER}/kcm_socket",
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
            f"mkdir -p {_FOLDER}",
            f"printf '[libdefaults]\\n    default_ccache_name = {_PLAIN}\\n' >{_SNIPPET}",
            *_missing_include(environment),
        )
    place = f"{setting.file}:{setting.line}"
    if setting.value == _PLAIN:
        return ok(f"{_PLAIN} ({place})")
    remedy = f"sed -i '{setting.line}s/=.*/= {_PLAIN}/' {shell_quote(setting.file)}"
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
    if not environment.path(_SNIPPET).exists():
        return ok(f"{_SNIPPET} is not installed: see default_ccache_name")
    if _SNIPPET not in environment.profile.files:
        return failed(f"{_SNIPPET} exists, but {_MAIN} does not include it", *_missing_include(environment))
    return ok(f"{_MAIN} includes {_SNIPPET}")


def _missing_include(environment: Environment) -> tuple[str, ...]:
    """The command that makes krb5.conf include the folder, unless it does so already."""
    if environment.variables.get("KRB5_CONFIG"):
        return ()
    try:
        text = environment.path(_MAIN).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return (f"echo 'includedir {_FOLDER}/' >>{_MAIN}",)
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
