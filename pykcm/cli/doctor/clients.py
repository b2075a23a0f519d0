"""What the clients go by: krb5.conf, and the environment."""

import re

from pykcm.cli.doctor.outcomes import Check, Outcome, failed, ok, skipped, warning
from pykcm.cli.doctor.sockets import Holder, command_of, holder_of
from pykcm.cli.doctor.systemd import KCM_SOCKET
from pykcm.cli.doctor.where import Where
from pykcm.cli.output import quoted
from pykcm.cli.profile import ProfileError
from pykcm.config import DEFAULT_SOCKET

_PLAIN = "KCM:"
_FOLDER = "/etc/krb5.conf.d"
_SNIPPET = f"{_FOLDER}/kcm_default_ccache"
_MAIN = "/etc/krb5.conf"

_INCLUDE = f"sed -i '1i includedir {_FOLDER}/' {_MAIN}"

# Where Heimdal's programs and libraries are, as distributions install them.
_HEIMDAL = (
    "usr/bin/kinit.heimdal",
    "usr/lib/heimdal/bin/kinit",
    "usr/lib/*/libkrb5.so.26",
    "usr/lib64/libkrb5.so.26",
)


def profile(where: Where) -> Outcome:
    """libkrb5 can read its configuration."""
    try:
        files = where.profile.files
    except ProfileError as error:
        return failed(
            f"{error}: no program of Kerberos works with it",
            f"${{EDITOR:-vi}} +{error.line} {quoted(error.file)}",
        )
    return ok(f"read from {', '.join(files)}" if files else "no krb5.conf: libkrb5 has its defaults")


def socket_path(where: Where) -> Outcome:
    """Clients connect where the daemon listens."""
    if not where.daemon_is_here:
        return skipped("pykcm is not installed here: the socket is another machine's")
    served = where.daemon_sockets
    used = where.client_socket
    found = where.profile.get("libdefaults", "kcm_socket")
    if used in served:
        return ok(f"clients connect to {used}, where the daemon listens")
    by_hand = _started_by_hand(where)
    if by_hand is not None:
        return warning(
            f"clients connect to {used}, where {by_hand} listens: by its command line, as the configuration "
            f"says {', '.join(served)}"
        )
    what = "to no socket at all" if used == "-" else f"to {used}"
    listens = f"the daemon listens at {', '.join(served)}"
    if found is not None:
        # What means something to sed, behind its s, means itself.
        wanted = re.sub(r"[\\&#\n]", r"\\\g<0>", served[0])
        return failed(
            f"clients connect {what} (kcm_socket in {found.file}:{found.line}), but {listens}",
            f"sed -i {quoted(f'{found.line}s#=.*#= {wanted}#')} {quoted(found.file)}",
        )
    return failed(
        f"clients connect {what} (kcm_socket is not set), but {listens}",
        f"printf '[libdefaults]\\n    kcm_socket = %s\\n' {quoted(served[0])} >{_FOLDER}/kcm_socket",
        *_missing_include(where),
    )


def _started_by_hand(where: Where) -> Holder | None:
    """The pykcmd that listens where clients connect, though neither systemd nor its configuration says so."""
    if where.unit(KCM_SOCKET).loaded:
        return None
    try:
        holder = holder_of(where.path(where.client_socket))
    except OSError:
        return None
    return holder if holder.pid and command_of(holder.pid) == "pykcmd" else None


def default_ccache(where: Where) -> Outcome:
    """Programs use the user's whole collection in KCM by themselves."""
    found = where.profile.get("libdefaults", "default_ccache_name")
    if found is None:
        return failed(
            "default_ccache_name is not set: programs keep their tickets where the library has it built in",
            f"mkdir -p {_FOLDER}",
            f"printf '[libdefaults]\\n    default_ccache_name = {_PLAIN}\\n' >{_SNIPPET}",
            *_missing_include(where),
        )
    place = f"{found.file}:{found.line}"
    if found.value == _PLAIN:
        return ok(f"{_PLAIN} ({place})")
    mend = f"sed -i '{found.line}s/=.*/= {_PLAIN}/' {quoted(found.file)}"
    if found.value.startswith(_PLAIN):
        return failed(
            f"{found.value} ({place}) is one single ccache: a second kinit overwrites the first one's "
            f"tickets; {_PLAIN} is the whole collection",
            mend,
        )
    return failed(f"{found.value} ({place}): programs do not keep their tickets in KCM", mend)


def environment(where: Where) -> Outcome:
    """KRB5CCNAME leads nowhere else."""
    name = where.environment.get("KRB5CCNAME")
    if not name:
        return ok("KRB5CCNAME is not set")
    if name == _PLAIN:
        return ok(f"KRB5CCNAME is {_PLAIN}")
    text = f"KRB5CCNAME is {name}: programs started from here use that, whatever krb5.conf says"
    return warning(text, "unset KRB5CCNAME")


def snippet(where: Where) -> Outcome:
    """What is in /etc/krb5.conf.d is included."""
    if where.environment.get("KRB5_CONFIG"):
        return skipped("KRB5_CONFIG names other files")
    if not where.path(_SNIPPET).exists():
        return ok(f"{_SNIPPET} is not installed: what counts is default_ccache_name")
    if _SNIPPET not in where.profile.files:
        return failed(f"{_SNIPPET} is there, but {_MAIN} does not include it", *_missing_include(where))
    return ok(f"{_MAIN} includes {_SNIPPET}")


def _missing_include(where: Where) -> tuple[str, ...]:
    """The command that includes the folder, where nothing of it is included yet."""
    if where.environment.get("KRB5_CONFIG"):
        return ()
    try:
        text = where.path(_MAIN).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return (f"echo 'includedir {_FOLDER}/' >>{_MAIN}",)
    included = any(
        line.split()[:2] in (["includedir", _FOLDER], ["includedir", f"{_FOLDER}/"])
        for line in text.splitlines()
    )
    return () if included else (_INCLUDE,)


def heimdal(where: Where) -> Outcome:
    """Heimdal's programs know one path only."""
    installed = [found for pattern in _HEIMDAL for found in where.root.glob(pattern)]
    if not installed:
        return ok("none of Heimdal's programs or libraries are here")
    served = where.daemon_sockets if where.daemon_is_here else (where.client_socket,)
    standard = where.path(DEFAULT_SOCKET)
    if DEFAULT_SOCKET in served or any(
        standard.exists() and where.path(each).exists() and standard.samefile(where.path(each))
        for each in served
    ):
        return ok(f"Heimdal's programs find {DEFAULT_SOCKET}")
    return warning(
        f"Heimdal is installed, and its programs know {DEFAULT_SOCKET} alone: they do not find pykcm",
        f"ln -s {quoted(served[0])} {DEFAULT_SOCKET}",
    )


CHECKS = (
    Check("krb5.conf", profile),
    Check("kcm_socket", socket_path),
    Check("default_ccache_name", default_ccache),
    Check("KRB5CCNAME", environment),
    Check("krb5.conf.d", snippet),
    Check("Heimdal", heimdal),
)
