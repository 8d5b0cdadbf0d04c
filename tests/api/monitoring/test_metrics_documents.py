"""The page, the dashboard and the alert rules name the metrics that the code has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.api.monitoring.scraping import names
from tests.checkout import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

PAGE = ROOT / "docs" / "metrics.md"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
RULE_TESTS = ROOT / "deploy" / "prometheus" / "alerts_test.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "millrace.json"

NAME = re.compile(r"\b(?:millrace|process)_[a-z0-9_]+\b")
HISTOGRAM_PART = re.compile(r"_(?:bucket|sum|count)$")
NOT_METRICS = {"millrace_webhooks", "millrace_consumergroup_"}
ON_ONE_DATABASE = {
    "sqlite": {"millrace_sqlite_file_bytes", "millrace_sqlite_wal_bytes"},
    "postgresql": {"millrace_postgres_database_bytes", "millrace_postgres_oldest_snapshot_seconds"},
}


def documented() -> set[str]:
    """Return the metrics in the first columns of the page's tables."""
    return set(re.findall(r"^\| `((?:millrace|process)_[a-z0-9_]+)` \|", PAGE.read_text(), re.MULTILINE))


def named_in(expressions: list[str]) -> set[str]:
    """Return the metrics in expressions of PromQL, histograms by the names of their families."""
    found = {name for each in expressions for name in NAME.findall(each)}
    page = documented()
    return {name if name in page else HISTOGRAM_PART.sub("", name) for name in found}


@pytest.mark.anyio
async def test_the_page_lists_exactly_the_metrics_of_a_scrape(client: httpx2.AsyncClient) -> None:
    database = (await client.get("/readyz")).json()["database"]
    others = set[str]().union(*(own for name, own in ON_ONE_DATABASE.items() if name != database))

    assert documented() - others == await names(client)


def test_the_alert_rules_name_metrics_of_the_page_and_have_a_test_each() -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    fired = {test["alertname"] for each in tests for test in each["alert_rule_test"] if test["exp_alerts"]}

    assert named_in([rule["expr"] for rule in group["rules"]]) <= documented()
    assert len(group["rules"]) == 10
    assert {rule["alert"] for rule in group["rules"]} == fired
    assert all(rule["annotations"].keys() == {"summary", "description"} for rule in group["rules"])


def test_the_dashboard_shows_every_metric_of_the_page_but_details() -> None:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    shown = named_in(expressions)

    assert shown <= documented()
    assert documented() - shown == {
        "millrace_accepted_connections_total",
        "millrace_append_requests_total",
        "millrace_consumergroup_current_offset",
        "millrace_consumergroup_lag",
        "millrace_http_stream_duration_seconds",
        "millrace_limit_refusals_total",
        "millrace_memory_budget_bytes",
        "millrace_memory_refusals_total",
        "millrace_queue_requests_total",
        "millrace_queue_transactions_total",
        "millrace_retention_raised_starts_total",
        "millrace_scrape_complete",
        "millrace_task_failures_total",
        "millrace_task_runs_total",
        "process_max_fds",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
    }
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (apt install prometheus)")


def promtool(*arguments: str) -> None:
    ran = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_promtool_accepts_the_alert_rules_and_their_tests() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(RULE_TESTS))


@needs_promtool
def test_the_expressions_of_the_dashboard_are_promql(tmp_path: Path) -> None:
    text = DASHBOARD.read_text().replace("$__rate_interval", "5m").replace("$instance", ".*")
    expressions = [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", [])]
    rules = [{"record": f"a:{number}", "expr": each} for number, each in enumerate(expressions)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    promtool("check", "rules", str(path))
