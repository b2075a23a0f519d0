"""Checks for programs and settings on this machine that keep tickets outside of KCM."""

import re
from collections.abc import Iterator

from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Result, ok, warning

# Samba's own Heimdal, as distributions other than Fedora's relatives build it.
_SAMBA = tuple(
    f"{folder}/samba/libkrb5-{name}.so*"
    for folder in ("usr/lib*", "usr/lib/*")
    for name in ("samba4", "private-samba")
)
_JAVA = ("usr/lib/jvm/*/bin/java",)

_SSHD = ("etc/ssh/sshd_config", "etc/ssh/sshd_config.d/*.conf")
_SSHD_STORES = re.compile(
    r"^\s*(GSSAPIAuthentication|KerberosAuthentication)[\s=]+\"?yes\b", re.IGNORECASE | re.MULTILINE
)

_PAM = ("etc/pam.d/*",)
# pam_krb5's settings of the place, other than KCM: with a name: pam_krb5 fills plain KCM: as root.
_PAM_PLACE = re.compile(r"^[^#\n]*\bpam_krb5\.so\b[^#\n]*?\s(ccache(?:_dir)?=(?!KCM:\S)\S+)", re.MULTILINE)


def other_libraries(environment: Environment) -> Result:
    """Check for programs with a Kerberos library that does not know KCM."""
    found = []
    if _exists(environment, _SAMBA):
        found.append("Samba's programs have their own Heimdal")
    if _exists(environment, _JAVA):
        found.append("Java reads KCM only with -Dsun.security.jgss.native=true")
    if not found:
        return ok("neither Samba's own Heimdal nor Java is installed")
    return warning(f"{'; '.join(found)}: give such programs a FILE: ccache of their own with KRB5CCNAME")


def logins(environment: Environment) -> Result:
    """Check that sshd and PAM do not put the tickets of a login elsewhere."""
    found = [
        f"{name} sets {match[1]}: some builds of sshd store forwarded tickets in FILE:/tmp/krb5cc_*, which "
        "`pykcmctl import` moves to KCM"
        for name, match in _matches(environment, _SSHD, _SSHD_STORES)
    ]
    found += [
        f"{name} gives pam_krb5 {match[1]}: use ccache=KCM:%u:%p"
        for name, match in _matches(environment, _PAM, _PAM_PLACE)
    ]
    return warning("; ".join(found)) if found else ok("no setting of sshd or pam_krb5 puts tickets elsewhere")


def _exists(environment: Environment, patterns: tuple[str, ...]) -> bool:
    return any(True for pattern in patterns for _ in environment.root.glob(pattern))


def _matches(
    environment: Environment, patterns: tuple[str, ...], wanted: re.Pattern[str]
) -> Iterator[tuple[str, re.Match[str]]]:
    """The first match in each file, with the file's name on the machine."""
    for pattern in patterns:
        for file in sorted(environment.root.glob(pattern)):
            if not file.is_file():
                continue
            match = wanted.search(file.read_text(encoding="utf-8", errors="replace"))
            if match:
                yield f"/{file.relative_to(environment.root)}", match


CHECKS = (Check("other libraries", other_libraries), Check("logins", logins))
