"""The command doctor, and the order of its checks."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pykcm.cli.client import ControlClient
from pykcm.cli.output import print_json, print_line
from pykcm.config import DEFAULT_FILE
from pykcm.protocol.text import printable

if TYPE_CHECKING:
    from pykcm.cli.doctor.results import Check, Result

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": None}

# The longest name of a check.
_WIDTH = len("default_ccache_name")


def all_checks() -> "tuple[Check, ...]":
    """All checks, in the order of the report: a check comes after those that it depends on."""
    # Imported late: no other command needs them.
    from pykcm.cli.doctor import (  # noqa: PLC0415
        clients,
        configuration,
        round_trip,
        shared_store,
        sockets,
        storage,
        units,
    )

    return (
        *configuration.CHECKS,
        *units.CHECKS,
        *sockets.CHECKS,
        *clients.CHECKS,
        *configuration.SELINUX_CHECKS,
        *storage.CHECKS,
        *shared_store.CHECKS,
        *round_trip.CHECKS,
    )


@click.command("doctor")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The file that the daemon is given with --config.  [default: {DEFAULT_FILE}]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor_command(context: click.Context, config_file: Path | None, *, as_json: bool) -> None:
    """Check for common problems, and print their solutions.

    A solution is a list of commands. Any user may run it; checks that need root are skipped then. The
    exit status is 1 if a check has failed. Warnings and skipped checks do not count.
    """
    # Imported late: no other command needs them.
    from pykcm.cli.doctor.environment import Environment  # noqa: PLC0415
    from pykcm.cli.doctor.results import run_check  # noqa: PLC0415

    client: ControlClient = context.obj
    environment = Environment(config_file=config_file, control_path=os.fspath(client.path))
    results = {}
    for check in all_checks():
        results[check.name] = run_check(check, environment)
        if not as_json:
            _show(check.name, results[check.name])
    if as_json:
        print_json([_for_json(name, result) for name, result in results.items()])
    if any(result.level == "failed" for result in results.values()):
        context.exit(1)


def _show(name: str, result: "Result") -> None:
    level = click.style(f"{result.level:<7}", fg=_COLOURS[result.level])
    print_line(f"  {name:<{_WIDTH}}  {result.text}", styled=level)
    for command in result.remedy:
        print_line(f"{'':9}{'':{_WIDTH}}      {command}")


def _for_json(name: str, result: "Result") -> dict[str, Any]:
    return {
        "check": name,
        "outcome": result.level.value,
        "text": printable(result.text),
        "remedy": list(map(printable, result.remedy)),
    }


COMMANDS = (doctor_command,)
