"""The check of the store that hosts share: connection, schema, role, key, server and clock."""

import time

from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Result, failed, ok, skipped, warning
from pykcm.store.interface import StoreUnusableError

_CHECK = "pykcmctl store check"
_CHECK_WITH_CREDENTIAL = f"systemd-run --pipe --wait --property=LoadCredentialEncrypted=pykcm.key {_CHECK}"


def shared_store(environment: Environment) -> Result:
    """Check the database as a daemon would use it, with this process's key; nothing is changed."""
    config = environment.config
    if config.store != "postgresql":
        return skipped(f'store = "{config.store}" is of this host alone')
    try:
        # An optional part.
        from pykcm.store.postgresql import checks, opening  # noqa: PLC0415
    except ModuleNotFoundError as error:
        return failed(
            f'store = "postgresql" needs {error.name}: the daemon refuses to start',
            'pip install "pykcm[postgresql]"',
        )
    key_files = opening.key_files(config, is_command=True)
    try:
        keys = key_files.read()
    except StoreUnusableError as error:
        if environment.key_credential is not None:
            return skipped(f"the key is a systemd credential, which the daemon has: {_CHECK_WITH_CREDENTIAL}")
        return failed(str(error))
    try:
        with opening.connect(config) as connection:
            found = list(checks.findings(connection, [key.id for key in keys], time.time()))
    except StoreUnusableError as error:
        return failed(str(error), _CHECK)
    wrong = [finding for finding in found if finding.way_out]
    text = "; ".join(f"{each.subject}: {each.state}: {each.way_out}" for each in wrong)
    if any(finding.is_fatal for finding in wrong):
        return failed(text, _CHECK)
    if wrong:
        return warning(text, _CHECK)
    return ok("; ".join(f"{each.subject}: {each.state}" for each in found))


CHECKS = (Check("shared store", shared_store),)
