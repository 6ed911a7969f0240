"""What watches the system asks for what the system tells, and every alert says what to do."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.test_docs import anchors

PROJECT = Path(__file__).parents[1]
ALERTS = PROJECT / "docs/alerts.md"
NAME = re.compile(r"\b(?:cuggu_[a-z0-9_]+|up)\b(?![\"'-])")

pytestmark = pytest.mark.anyio


def rules() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((PROJECT / "ops/prometheus/alerts.yml").read_text())
    assert list(loaded) == ["groups"]
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((PROJECT / "ops/grafana/cuggu.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    asked = {rule["alert"]: rule["expr"] for rule in rules()}
    for panel in panels():
        asked |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    return asked


async def told(http: httpx.AsyncClient) -> set[str]:
    """Every name under which a sample can be found: this process holds what the API and the workers count."""
    names = set()
    for family in text_string_to_metric_families((await http.get("/metrics")).text):
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        names |= {family.name + end for end in ends}
    return {name for name in names if name.startswith("cuggu_")} | {"up"}


async def test_everything_that_is_asked_for_is_told(http: httpx.AsyncClient) -> None:
    known = await told(http)
    asked = {name: set(NAME.findall(expression)) for name, expression in expressions().items()}
    assert {name: found - known for name, found in asked.items() if found - known} == {}
    assert all(asked.values())


async def test_everything_that_is_told_is_shown_or_watched(http: httpx.AsyncClient) -> None:
    def without_end(names: set[str]) -> set[str]:
        return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}

    shown = without_end({name for text in expressions().values() for name in NAME.findall(text)})
    known = without_end(await told(http))
    # An age by itself says more than how many are of it.
    assert known - shown == {"cuggu_photos_overdue"}


def test_every_alert_has_what_it_needs() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert re.fullmatch(r"Cuggu[A-Z]\w+", rule["alert"])
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert rule["labels"] in ({"severity": severity} for severity in ("critical", "warning", "info"))
        assert set(rule["annotations"]) == {"summary", "todo", "runbook_url"}
        assert all(rule["annotations"].values())
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_every_alert_has_its_paragraph_and_every_paragraph_its_alert() -> None:
    urls = [rule["annotations"]["runbook_url"] for rule in rules()]
    assert urls == [f"docs/alerts.md#{rule['alert'].lower()}" for rule in rules()]
    titles = re.findall(r"^## (.*)$", ALERTS.read_text(), re.M)
    assert titles == [rule["alert"] for rule in rules()]
    assert {url.partition("#")[2] for url in urls} <= anchors(ALERTS)
    for rule in rules():
        said = f"*{rule['labels']['severity']}*: {rule['annotations']['summary']}."
        section = ALERTS.read_text().partition(f"## {rule['alert']}\n")[2].partition("\n## ")[0]
        assert said in section, rule["alert"]
        assert len(section) > len(said) + 150, "and what to do"


def test_prometheus_finds_the_processes_of_the_compose_file() -> None:
    config = yaml.safe_load((PROJECT / "ops/prometheus/prometheus.yml").read_text())
    services = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]
    assert config["rule_files"] == ["alerts.yml"]
    jobs = {scrape["job_name"]: scrape["dns_sd_configs"][0] for scrape in config["scrape_configs"]}
    watched = set(re.findall(r'job="([a-z-]+)"', " ".join(expressions().values())))
    assert watched <= jobs.keys()
    for place in jobs.values():
        assert set(place["names"]) <= services.keys()
    ports = {job: place["port"] for job, place in jobs.items()}
    assert ports["cuggu-api"] == int(services["web"]["environment"]["API_PORT"])
    worker = services["worker"]["environment"]
    assert (worker["WORKER_HEALTH_HOST"], int(worker["WORKER_HEALTH_PORT"])) == ("0.0.0.0", ports["cuggu-worker"])
    assert jobs["cuggu-flower"]["names"] == ["flower"]


def test_the_dashboards_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((PROJECT / "ops/grafana/cuggu.json").read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
