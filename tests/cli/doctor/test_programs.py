"""The doctor's checks for programs that keep tickets outside of KCM."""

import pytest

from pykcm.cli.doctor import programs
from pykcm.cli.doctor.results import Level

from .machine import Machine


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/lib/x86_64-linux-gnu/samba/libkrb5-samba4.so.26.0.0", "Samba"),
        ("/usr/lib64/samba/libkrb5-samba4.so.26", "Samba"),
        ("/usr/lib/x86_64-linux-gnu/samba/libkrb5-samba4.so.0", "Samba"),
        ("/usr/lib/x86_64-linux-gnu/samba/libkrb5-private-samba.so.26", "Samba"),
        ("/usr/lib/jvm/java-17-openjdk-amd64/bin/java", "Java"),
    ],
)
def test_programs_with_other_libraries_are_named(machine: Machine, path: str, name: str) -> None:
    assert programs.other_libraries(machine.environment()).level is Level.OK
    machine.write(path, "")
    result = programs.other_libraries(machine.environment())
    assert result.level is Level.WARNING
    assert name in result.text


@pytest.mark.parametrize(
    ("path", "line", "named"),
    [
        ("/etc/ssh/sshd_config", "GSSAPIAuthentication yes", "GSSAPIAuthentication"),
        ("/etc/ssh/sshd_config", "#GSSAPIAuthentication yes", None),
        ("/etc/ssh/sshd_config", "GSSAPIAuthentication no", None),
        ("/etc/ssh/sshd_config.d/krb.conf", "  kerberosauthentication=yes", "kerberosauthentication"),
        (
            "/etc/pam.d/common-auth",
            "auth optional pam_krb5.so ccache=FILE:/tmp/x_%u",
            "ccache=FILE:/tmp/x_%u",
        ),
        ("/etc/pam.d/common-auth", "auth optional pam_krb5.so ccache_dir=/srv", "ccache_dir=/srv"),
        ("/etc/pam.d/common-auth", "auth optional pam_krb5.so minimum_uid=1000", None),
        (
            "/etc/pam.d/common-auth",
            "auth optional pam_krb5.so ccache=KCM: minimum_uid=1000",
            "use ccache=KCM:%u:%p",
        ),
        ("/etc/pam.d/common-auth", "auth optional pam_krb5.so ccache=KCM:", "use ccache=KCM:%u:%p"),
        ("/etc/pam.d/common-auth", "# auth optional pam_krb5.so ccache=FILE:/x", None),
    ],
)
def test_settings_of_logins_are_named_with_their_file(
    machine: Machine, path: str, line: str, named: str | None
) -> None:
    machine.write(path, f"# first line\n{line}\n")
    result = programs.logins(machine.environment())
    assert result.level is (Level.OK if named is None else Level.WARNING)
    assert named is None or (path in result.text and named in result.text)
