"""The commands of `pykcmctl store`: they reach the shared store's database without a daemon."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pykcm import interrupts
from pykcm.cli.maintenance import progress_bar
from pykcm.cli.names import user_name
from pykcm.cli.output import format_count, print_json, print_line, print_text
from pykcm.config import Config, ConfigError, load_config
from pykcm.store.interface import Store, StoreError, StoreUnusableError

if TYPE_CHECKING:
    from pykcm.store.moving import Moved

_config = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="The daemon's configuration file (default: /etc/pykcm/pykcm.toml).",
)
_admin = click.option(
    "--admin",
    metavar="CONNINFO",
    help="Connect with this connection string, as a role that may create a schema.",
)


@click.group("store", short_help="Set up, check and copy the store that hosts share.")
def store_command() -> None:
    """Set up, check and copy the store that hosts share.

    The commands need no daemon. They read the daemon's configuration and its key: run them as root or as the
    daemon's user.
    """


@store_command.command("init")
@_config
@_admin
@click.option("--role", metavar="NAME", help="Grant the daemons' role what it needs.")
@click.option("--sql", "prints", is_flag=True, help="Print the statements, and change nothing.")
def init_command(file: Path | None, admin: str | None, role: str | None, *, prints: bool) -> None:
    """Create the schema, for hosts with this host's key.

    The administrator connects once with --admin; --role is the role that the daemons connect as. Or let the
    administrator run the statements that --sql prints. The command makes no key: make one of 32 random bytes
    and give it to every host.
    """
    with _errors():
        from pykcm.store.postgresql import opening, schema  # noqa: PLC0415 - an optional part

        config = _shared(file)
        key, *_ = opening.key_files(config, is_command=True).read()
        if prints:
            print_text(schema.creation(key.id, role).removesuffix("\n"))
            return
        with opening.connect(config, admin) as connection:
            schema.check_role(connection, role)
            schema.create(connection, key.id, role)
    print_line("The schema is there. Give every host the same key, then start their daemons.", err=True)


@store_command.command("check")
@_config
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check_command(context: click.Context, file: Path | None, *, as_json: bool) -> None:
    """Check the connection, the schema, the privileges, the key, the server's settings and its clock.

    The exit status is 1 if a daemon could not work.
    """
    with _errors():
        from pykcm.store.postgresql import checks, opening  # noqa: PLC0415 - an optional part

        config = _shared(file)
        keys = opening.key_files(config, is_command=True).read()
        with opening.connect(config) as connection:
            found = list(checks.findings(connection, [key.id for key in keys], time.time))
    if as_json:
        print_json([finding._asdict() for finding in found])
    else:
        for finding in found:
            mark = "ok" if not finding.way_out else "FAILED" if finding.is_fatal else "warning"
            print_line(f"{mark:8}{finding.subject}: {finding.state}" + _hint(finding.way_out))
    context.exit(int(any(finding.is_fatal for finding in found)))


@store_command.command("upgrade")
@_config
@_admin
def upgrade_command(file: Path | None, admin: str | None) -> None:
    """Bring the schema to the version of this pykcm.

    Daemons of an older pykcm do not start with the new schema, and running ones refuse all requests: install
    the newer pykcm on all hosts first.
    """
    with _errors():
        from pykcm.store.postgresql import opening, schema  # noqa: PLC0415 - an optional part

        with opening.connect(_shared(file), admin) as connection:
            before = schema.upgrade(connection)
    if before == schema.VERSION:
        print_line(f"The schema has version {before} already, which is this pykcm's.", err=True)
    else:
        print_line(f"The schema was brought from version {before} to {schema.VERSION}.", err=True)


@store_command.command("copy")
@click.argument("source", metavar="FROM", type=click.Path(path_type=Path))
@click.argument("target", metavar="TO", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def copy_command(context: click.Context, source: Path, target: Path, *, as_json: bool) -> None:
    """Copy all ccaches from one store to another, between stopping the daemon and starting it again.

    FROM and TO are two configuration files, for example the present one and the next one. Each user's ccaches
    are copied together and unchanged, or not at all. A user who has other ccaches in the target is skipped:
    nothing is overwritten. A user with a ccache that cannot be read in the source is left out, too. Then the
    exit status is 1. An interrupted copy goes on when it is repeated.
    """
    with _errors():
        from pykcm.store.offline import OfflineStores, become_owner  # noqa: PLC0415 - rarely needed

        configs = [load_config(source), load_config(target)]
        become_owner(configs)
        with ExitStack() as at_end:
            stores = OfflineStores(at_end)
            found = asyncio.run(
                _copy(stores.open(configs[0], may_create=False), stores.open(configs[1], may_create=True))
            )
    left_out = [moved for moved in found if moved.result in _LEFT_OUT]
    if as_json:
        print_json([moved._asdict() for moved in found])
    else:
        for moved in left_out:
            name = user_name(moved.uid) or moved.uid
            print_line(f"{moved.result}: {name} {_LEFT_OUT[moved.result]}", err=True)
        for result in ("copied", "unchanged", *_LEFT_OUT):
            those = [moved for moved in found if moved.result == result]
            print_line(f"{result}: {sum(each.ccaches for each in those)} ccaches of {len(those)} users")
    context.exit(int(bool(left_out)))


# Reasons why users are left out, by result.
_LEFT_OUT = {
    "skipped": "has other ccaches in the target; import them instead",
    "damaged": "has a ccache in the source that cannot be read; destroy it there, and repeat the command",
}


async def _copy(source: Store, target: Store) -> "list[Moved]":
    from pykcm.store.moving import copy_secrets  # noqa: PLC0415 - rarely needed

    found: list[Moved] = []
    uids: list[int] = []
    try:
        uids = await source.uids()
        with progress_bar("Copying", len(uids)) as show:
            async for moved in copy_secrets(source, target, uids):
                found.append(moved)
                show(len(found))
    except StoreError as error:
        raise click.ClickException(
            f"store copy: was interrupted: {error.reason}; repeat the command when the cause is gone"
        ) from None
    except BaseException:
        if interrupts.command.raised is not None:
            ccaches = sum(each.ccaches for each in found if each.result == "copied")
            print_line(
                "store copy: interrupted: at least "
                f"{format_count(ccaches, 'ccache')} copied, {len(found)} of "
                f"{format_count(len(uids), 'user')} done; repeat the command to go on",
                err=True,
            )
        raise
    return found


COMMANDS = [store_command]


def _hint(way_out: str) -> str:
    return f"; {way_out}" if way_out else ""


def _shared(file: Path | None) -> Config:
    config = load_config(file)
    if config.store != "postgresql":
        raise click.ClickException(
            f'store: the configuration has store = "{config.store}"; set store = "postgresql" first, as '
            "pykcm.toml(5) describes"
        )
    return config


@contextmanager
def _errors() -> Iterator[None]:
    """Show errors of the configuration, the key and the database as messages."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f'store: {error.name} is missing; pip install "pykcm[postgresql]"'
        ) from None
    except (ConfigError, StoreUnusableError) as error:
        raise click.ClickException(str(error)) from None
