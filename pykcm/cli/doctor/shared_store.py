"""The check of the store that hosts share: connection, schema, role, key, server and clock."""

import os
import time

from pykcm.cli.client import ControlClient
from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Level, Result, failed, ok, skipped, warning
from pykcm.config import Config
from pykcm.control.messages import ControlError
from pykcm.peer.identity import ROOT
from pykcm.store.interface import StoreUnusableError

_CHECK = "pykcmctl store check"

# In seconds.
_PATIENCE = 10.0


def shared_store(environment: Environment) -> Result:
    """Check the database with this host's key, and whether the daemon reaches it; nothing is changed."""
    config = environment.config
    if config.store != "postgresql":
        return skipped(f'store = "{config.store}" is of this host alone')
    try:
        # An optional part.
        from pykcm.store.postgresql import credentials, keyring  # noqa: PLC0415
    except ModuleNotFoundError as error:
        return failed(
            f'store = "postgresql" needs {error.name}: the daemon refuses to start',
            'pip install "pykcm[postgresql]"',
        )
    result = None
    with_credentials = (
        f"{keyring.WITH_CREDENTIALS} {_CHECK}"
        if environment.has_systemd
        else f"{_CHECK}  # as the user who runs pykcmd"
    )
    try:
        missing = _missing_credentials(environment, credentials.credential_names(config))
        if not missing:
            result = _check(config)
    except StoreUnusableError as error:
        if not _ask_daemon(environment)[0]:
            return failed(str(error), _CHECK)
        # For example, the role is that of the service's user.
        return warning(
            f"the daemon reaches the database, and this command does not: {error}", with_credentials
        )
    is_reached, reason = _ask_daemon(environment)
    if result is None:
        if reason:
            return failed(f"the daemon does not reach the database: {reason}", environment.log_command)
        text = f"for the checks with the service's credentials ({', '.join(missing)}): {with_credentials}"
        return ok(f"the daemon reaches the database; {text}") if is_reached else skipped(text)
    if reason and result.level is not Level.FAILED:
        return failed(
            f"this command reaches the database, but the daemon does not: {reason}", environment.log_command
        )
    return result


def _missing_credentials(environment: Environment, names: list[str]) -> list[str]:
    """The credentials that the service has, and this command does not."""
    if "CREDENTIALS_DIRECTORY" in environment.variables:
        return []
    return [name for name in names if environment.credential(name) is not None]


def _check(config: Config) -> Result:
    """Raises StoreUnusableError."""
    from pykcm.store.postgresql import checks, opening  # noqa: PLC0415

    keys = opening.key_files(config, is_command=True).read()
    with opening.connect(config) as connection:
        found = list(checks.findings(connection, [key.id for key in keys], time.time))
    wrong = [finding for finding in found if finding.way_out]
    text = "; ".join(f"{each.subject}: {each.state}: {each.way_out}" for each in wrong)
    if any(finding.is_fatal for finding in wrong):
        return failed(text, _CHECK)
    if wrong:
        return warning(text, _CHECK)
    return ok("; ".join(f"{each.subject}: {each.state}" for each in found))


def _ask_daemon(environment: Environment) -> tuple[bool, str]:
    """Whether the daemon reaches the database, and why it does not; (False, "") if it does not say."""
    if environment.uid != ROOT:
        return False, ""
    try:
        client = ControlClient(os.fspath(environment.path(environment.control_path)), patience=_PATIENCE)
        (stats,) = client.ask("stats")
    except (OSError, ControlError):
        return False, ""
    store = stats.get("store")
    return (store["away_since"] is None, str(store["reason"])) if store else (False, "")


CHECKS = (Check("shared store", shared_store),)
