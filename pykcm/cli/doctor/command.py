"""The command doctor, and the order of its checks."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pykcm.cli.client import ControlClient
from pykcm.cli.output import print_json, show_progress
from pykcm.config import DEFAULT_FILE
from pykcm.protocol.text import printable

if TYPE_CHECKING:
    from pykcm.cli.doctor.report import Finding
    from pykcm.cli.doctor.results import Check


def all_groups() -> "dict[str, tuple[Check, ...]]":
    """All checks by group, in the order of the report: a check comes after those that it depends on."""
    # Imported late: no other command needs them.
    from pykcm.cli.doctor import (  # noqa: PLC0415
        apparmor,
        clients,
        configuration,
        programs,
        renewal,
        round_trip,
        shared_store,
        sockets,
        storage,
        units,
        users,
    )

    return {
        "Configuration": configuration.CHECKS,
        "systemd": units.CHECKS,
        "Sockets": sockets.CHECKS,
        "Kerberos programs": (*clients.CHECKS, *programs.CHECKS),
        "Security": (*configuration.SELINUX_CHECKS, *apparmor.CHECKS),
        "Storage": (*storage.CHECKS, *shared_store.CHECKS),
        "Renewal": renewal.CHECKS,
        "Users": users.CHECKS,
        "Answers": round_trip.CHECKS,
    }


@click.command("doctor")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The file that the daemon is given with --config.  [default: {DEFAULT_FILE}]",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only problems and warnings, nothing without them.")
@click.option("-v", "--verbose", is_flag=True, help="Print the purpose of each check as well.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor_command(
    context: click.Context, config_file: Path | None, *, quiet: bool, verbose: bool, as_json: bool
) -> None:
    """Check for common problems, and print their solutions.

    A solution is a list of commands. Any user may run it; checks that need root are skipped then. The
    exit status is 1 if a check has failed. Warnings and skipped checks do not count.
    """
    # Imported late: no other command needs them.
    from pykcm.cli.doctor.environment import Environment  # noqa: PLC0415
    from pykcm.cli.doctor.report import Finding, print_report  # noqa: PLC0415
    from pykcm.cli.doctor.results import run_check  # noqa: PLC0415

    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    client: ControlClient = context.obj
    environment = Environment(config_file=config_file, control_path=os.fspath(client.path))
    checks = [(group, check) for group, checks in all_groups().items() for check in checks]
    findings = [
        Finding(group, check, run_check(check, environment))
        for group, check in show_progress(checks, len(checks), "checking")
    ]
    if as_json:
        print_json(list(map(_for_json, findings)))
    else:
        print_report(findings, quiet=quiet, verbose=verbose)
    if any(finding.result.level == "failed" for finding in findings):
        context.exit(1)


def _for_json(finding: "Finding") -> dict[str, Any]:
    group, check, result = finding
    return {
        "check": check.name,
        "group": group,
        "outcome": result.level.value,
        "text": printable(result.text),
        "remedy": list(map(printable, result.remedy)),
    }


COMMANDS = (doctor_command,)
