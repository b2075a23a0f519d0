"""Grafana's dashboard: a real Prometheus that scrapes a real daemon has data for each panel."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from tests.builders import ALICE, credential_bytes
from tests.ports import free_port
from tests.test_monitoring import MONITORING, prometheus_program

from .control import Pykcmctl
from .daemon import LIMIT, Pykcmd
from .serving_metrics import serving

PROMETHEUS = prometheus_program("prometheus")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may use the control socket"),
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is missing"),
]

# Rates need two scrapes in which a series exists.
_INTERVAL = "30s"


class Prometheus:
    """A Prometheus server that scrapes one address each second."""

    def __init__(self, folder: Path, scraped: int) -> None:
        self.port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(MONITORING / "pykcm.rules.yml")],
            "scrape_configs": [
                {"job_name": "pykcm", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}
            ],
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))
        assert PROMETHEUS is not None
        self.argv = [
            PROMETHEUS,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def api(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=LIMIT) as answer:
            return json.load(answer)["data"]


@contextmanager
def prometheus(folder: Path, scraped: int) -> Iterator[Prometheus]:
    server = Prometheus(folder, scraped)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(server.argv, stdout=log, stderr=log, cwd=folder)
    try:
        yield server
    finally:
        process.terminate()
        process.wait(LIMIT)


def panels() -> dict[str, list[str]]:
    """The expressions of each panel by its title, with values for Grafana's variables.

    Panels below "Shared store" and "Renewals" are left out: the daemon has neither.
    """
    found: dict[str, list[str]] = {}
    heading = ""
    for panel in json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]:
        if panel["type"] == "row":
            heading = panel["title"]
        elif heading not in {"Shared store", "Renewals"}:
            found[panel["title"]] = [
                target["expr"].replace("$__rate_interval", _INTERVAL).replace("$instance", ".*")
                for target in panel["targets"]
            ]
    return found


def use(kcm: KcmClient) -> None:
    """Requests of all kinds that the panels show: changes, evictions, refusals, failures."""
    now = int(time.time())
    expired = credential_bytes(times=(now - 200, now - 200, now - 100, now - 100))
    with suppress(KcmError):
        kcm.destroy(b"0:a")
    for name, blob in ((b"0:old", expired), (b"0:a", credential_bytes()), (b"0:b", credential_bytes())):
        kcm.replace(name, 0, ALICE, [blob])
    with pytest.raises(KcmError, match="EDQUOT"):
        kcm.replace(b"0:c", 0, ALICE, [credential_bytes()])


def test_each_panel_has_data(stopped_pykcmd: Pykcmd) -> None:
    """Every panel shows something, and Prometheus evaluates every alert."""
    stopped_pykcmd.configure("max_uid_ccaches = 2\n")
    stopped_pykcmd.start()
    ctl = Pykcmctl(stopped_pykcmd.control_path)
    port = free_port()
    folder = stopped_pykcmd.folder
    with (
        serving(folder, ctl.argv("metrics", "--listen", f"127.0.0.1:{port}")),
        prometheus(folder, port) as server,
        KcmClient(stopped_pykcmd.socket_path) as kcm,
    ):
        missing = set(panels())
        rules: list[dict[str, Any]] = []
        deadline = time.monotonic() + 2 * LIMIT
        while missing or not rules or any(rule["health"] != "ok" for rule in rules):
            assert time.monotonic() < deadline, (missing, rules)
            use(kcm)
            time.sleep(0.2)
            with suppress(urllib.error.URLError, ConnectionError):
                missing = {
                    title
                    for title, expressions in panels().items()
                    if not any(server.api("query", query=each)["result"] for each in expressions)
                }
                rules = [rule for group in server.api("rules")["groups"] for rule in group["rules"]]
    assert stopped_pykcmd.stop() == 0
