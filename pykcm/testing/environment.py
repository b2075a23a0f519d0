"""The environment variables with which libkrb5 finds realms and a KCM server of tests."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

# Set in this environment alone: the commands of a realm then use the ccache of the calling test.
_MARK = "PYKCM_TESTING_ENVIRONMENT"


class Part(Protocol):
    """A realm or a KCM server.

    `takes_precedence`: its variables and options count before those of other parts.
    """

    takes_precedence: bool

    @property
    def krb5_conf(self) -> Path: ...

    @property
    def variables(self) -> Mapping[str, str]:
        """Variables besides KRB5_CONFIG."""


def environment_of(*parts: Part) -> dict[str, str]:
    """Return the variables for these realms and this KCM server.

    The first realm is the default one. The ccache is in the KCM server if there is one.

        subprocess.run(["klist"], env=os.environ | environment_of(realm, server))
    """
    ordered = sorted(parts, key=lambda part: not part.takes_precedence)
    variables: dict[str, str] = {}
    for part in reversed(ordered):
        variables |= part.variables
    variables["KRB5_CONFIG"] = ":".join(str(part.krb5_conf) for part in ordered)
    variables[_MARK] = "1"
    return variables


def environment_for(part: Part) -> dict[str, str]:
    """Return the complete environment of a command of this part.

    A test's KRB5CCNAME stays. The developer's own settings do not count.
    """
    if _MARK not in os.environ:
        return os.environ | environment_of(part)
    conf = str(part.krb5_conf)
    paths = os.environ["KRB5_CONFIG"].split(":")
    return os.environ | {"KRB5_CONFIG": ":".join([conf, *(path for path in paths if path != conf)])}


@contextmanager
def activate(*parts: Part) -> Iterator[None]:
    """Let this process and its children use these realms and this KCM server.

    It sets variables of os.environ, and puts them back at the end.
    """
    variables = environment_of(*parts)
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
