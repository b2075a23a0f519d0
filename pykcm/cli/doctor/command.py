"""pykcmctl doctor."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pykcm.cli.client import ControlClient
from pykcm.cli.output import print_json, print_line
from pykcm.config import DEFAULT_FILE
from pykcm.protocol.text import printable

if TYPE_CHECKING:
    from pykcm.cli.doctor.outcomes import Outcome

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": None}

# As long as the longest of the checks' names.
_WIDTH = len("default_ccache_name")


@click.command("doctor")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"What the daemon has been given by --config.  [default: {DEFAULT_FILE}]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor_command(context: click.Context, config_file: Path | None, *, as_json: bool) -> None:
    """Look for what goes wrong in practice, and say how to mend it.

    Any user may; what takes root to see is skipped. The exit status is 1 where a check has failed: warnings
    and what was skipped do not count.
    """
    # Imported by those who use it: the other commands start without.
    from pykcm.cli.doctor.checks import CHECKS  # noqa: PLC0415
    from pykcm.cli.doctor.outcomes import outcome_of  # noqa: PLC0415
    from pykcm.cli.doctor.where import Where  # noqa: PLC0415

    client: ControlClient = context.obj
    where = Where(config_file=config_file, control_path=os.fspath(client.path))
    outcomes = {}
    for check in CHECKS:
        outcomes[check.name] = outcome_of(check, where)
        if not as_json:
            _show(check.name, outcomes[check.name])
    if as_json:
        print_json([_for_json(name, outcome) for name, outcome in outcomes.items()])
    if any(outcome.level == "failed" for outcome in outcomes.values()):
        context.exit(1)


def _show(name: str, outcome: "Outcome") -> None:
    level = click.style(f"{outcome.level:<7}", fg=_COLOURS[outcome.level])
    print_line(f"  {name:<{_WIDTH}}  {outcome.text}", styled=level)
    for command in outcome.remedy:
        print_line(f"{'':9}{'':{_WIDTH}}      {command}")


def _for_json(name: str, outcome: "Outcome") -> dict[str, Any]:
    return {
        "check": name,
        "outcome": outcome.level.value,
        "text": printable(outcome.text),
        "remedy": list(map(printable, outcome.remedy)),
    }


COMMANDS = (doctor_command,)
