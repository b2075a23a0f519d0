"""The alert rules and the dashboard in monitoring/: Prometheus accepts them, and their metrics exist."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MONITORING = Path(__file__).parents[1] / "monitoring"
METRICS = Path(__file__).parents[1] / "docs" / "metrics.md"

_METRIC = re.compile(r"\bpykcm_\w+")


def expressions() -> list[str]:
    """The expressions of the dashboard, with values for Grafana's variables."""
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    return [
        target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]


def prometheus_program(name: str) -> str | None:
    """The path of a program of Debian's package prometheus."""
    # scripts/bootstrap unpacks it next to the interpreter.
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return shutil.which(name, path=folders)


def promtool(*arguments: str) -> None:
    program = prometheus_program("promtool")
    if program is None:
        pytest.skip("promtool is missing: it is in Debian's package prometheus")
    run = subprocess.run(
        [program, *arguments], cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_alerts_fire_and_stay_silent_as_intended() -> None:
    """The unit tests of the rules succeed in promtool."""
    promtool("check", "rules", "pykcm.rules.yml")
    promtool("test", "rules", "pykcm.rules.test.yml")


def test_prometheus_parses_the_dashboards_expressions(tmp_path: Path) -> None:
    """Each expression of a panel is valid as the expression of a rule."""
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions())]
    # JSON is YAML.
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(file))


@pytest.mark.parametrize("source", ["pykcm.rules.yml", "grafana-dashboard.json"])
def test_rules_and_dashboard_use_documented_metrics(source: str) -> None:
    """Each metric that an expression names is in the table of docs/metrics.md."""
    text = (MONITORING / source).read_text()
    used = set(_METRIC.findall(text))
    documented = set(_METRIC.findall(METRICS.read_text()))
    assert used
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in used} <= documented


def test_every_alert_has_a_unit_test() -> None:
    """The unit tests name each alert of the rules."""
    alerts = re.findall(r"alert: (\w+)", (MONITORING / "pykcm.rules.yml").read_text())
    tested = re.findall(r'alertname="(\w+)"', (MONITORING / "pykcm.rules.test.yml").read_text())
    assert alerts
    assert set(alerts) == set(tested)


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    """Each panel has an ID, a place of its own within Grafana's 24 columns, and the chosen data source."""
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        x, y, width, height = (panel["gridPos"][key] for key in "xywh")
        assert x + width <= 24
        cells = {(column, line) for column in range(x, x + width) for line in range(y, y + height)}
        assert not cells & taken, panel["title"]
        taken |= cells
        targets = panel.get("targets", [])
        assert (panel["type"] == "row") is not bool(targets)
        assert len({target["refId"] for target in targets}) == len(targets)
        assert {target["datasource"]["uid"] for target in targets} <= {"${datasource}"}
