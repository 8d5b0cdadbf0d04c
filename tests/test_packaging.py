"""The distributed files but the wheel: image, compose file, lock files."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from app import __version__
from tests.checkout import ROOT, tracked_files

if TYPE_CHECKING:
    from pathlib import Path

LOCKS = ["requirements.lock", "requirements-dev.lock"]
OPTIONAL_MOUNTS = {"deploy/grafana/millrace.json"}
LOCK_LINE = re.compile(r"[a-z0-9][a-z0-9-]*==[A-Za-z0-9.!+]+( ; [a-z_]+ [^/@]+)?")
# Written in parts, so that this file does not contain the names.
REGISTRY_HOSTS = ["py" + "pi.org", "python" + "hosted.org", "npmjs" + ".org", "artifact" + "ory"]


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile as (name, rest), with continued lines joined."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def last_stage() -> list[tuple[str, str]]:
    instructions = dockerfile()
    start = max(index for index, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[start:]


def compose_services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return services


@pytest.mark.parametrize("name", [*LOCKS, "requirements-docs.lock"])
def test_a_lock_file_has_names_versions_and_markers_only(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()

    assert len(lines) > 10
    assert [line for line in lines if not LOCK_LINE.fullmatch(line)] == []


def test_both_lock_files_agree() -> None:
    runtime, development = (set((ROOT / name).read_text().splitlines()) for name in LOCKS)
    versions = {line.partition(" ;")[0] for line in development}

    assert {line.partition(" ;")[0] for line in runtime} <= versions


def test_no_file_names_a_package_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in tracked_files()
        for host in REGISTRY_HOSTS
        if host.encode() in path.read_bytes()
    ]
    assert found == []


def test_the_image_runs_as_a_fixed_user_other_than_root() -> None:
    users = [rest for name, rest in last_stage() if name == "USER"]

    assert len(users) == 1
    assert int(users[0].partition(":")[0]) > 0


def test_the_image_declares_command_stop_signal_port_volume_and_health_check() -> None:
    stage = dict(last_stage())

    assert json.loads(stage["ENTRYPOINT"]) == ["millrace"]
    assert json.loads(stage["CMD"]) == ["serve"]
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert stage["EXPOSE"] == "8400"
    assert stage["VOLUME"] == "/data"
    assert json.loads(stage["HEALTHCHECK"].partition("CMD ")[2]) == ["millrace", "health"]


def test_the_image_names_the_versions_of_its_base_images() -> None:
    images = [rest.split()[0] for name, rest in dockerfile() if name == "FROM"]

    assert len(images) == 2
    assert all(":" in image and not image.endswith(":latest") for image in images)


def test_the_image_copies_only_existing_files_of_the_build_context() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, rest in dockerfile():
        words = shlex.split(rest)
        if name == "COPY" and not words[0].startswith("--from="):
            for source in words[:-1]:
                assert (ROOT / source).exists(), source
                assert source in sent


def test_compose_migrates_a_healthy_database_before_it_serves() -> None:
    services = compose_services()

    assert "pg_isready" in services["postgres"]["healthcheck"]["test"]
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["restart"] == "no"
    assert services["millrace"]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_compose_runs_two_nodes_behind_a_proxy_on_a_primary_with_a_standby() -> None:
    services = compose_services()
    node = services["millrace"]

    assert node["deploy"]["replicas"] == 2
    assert "container_name" not in node
    assert not {"volumes", "ports"} & node.keys()
    assert "@postgres:5432,postgres-standby:5432/" in node["environment"]["MILLRACE_DATABASE_URL"]
    assert node["environment"]["MILLRACE_DATABASE_URL"].endswith("?target_session_attrs=read-write")
    assert services["proxy"]["depends_on"]["millrace"]["condition"] == "service_healthy"
    address = services["proxy"]["networks"]["default"]["ipv4_address"]
    assert node["environment"]["MILLRACE_TRUSTED_PROXIES"] == address
    assert {name for name, service in services.items() if service.get("profiles")} == {"prometheus", "grafana"}


def test_compose_starts_only_with_a_first_key_and_publishes_to_this_machine_alone() -> None:
    services = compose_services()

    assert services["millrace"]["environment"]["MILLRACE_ADMIN_KEY"].startswith("${MILLRACE_ADMIN_KEY:?")
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_compose_pins_its_images() -> None:
    for service in compose_services().values():
        assert "build" in service or re.search(r":v?\d", service["image"])


def test_compose_mounts_only_files_that_exist() -> None:
    volumes = [volume for service in compose_services().values() for volume in service.get("volumes", [])]
    mounted = [volume.split(":")[0].removeprefix("./") for volume in volumes if volume.startswith("./")]

    assert len(mounted) >= 5
    assert {path for path in mounted if not (ROOT / path).exists()} <= OPTIONAL_MOUNTS


@pytest.mark.parametrize("script", sorted((ROOT / "deploy" / "postgres").glob("*.sh")), ids=lambda path: path.name)
def test_a_script_of_the_deployment_is_valid(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def test_prometheus_scrapes_every_node_and_grafana_finds_it() -> None:
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    sources = ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"

    assert scrape["dns_sd_configs"][0] | {"refresh_interval": ""} == {
        "names": ["millrace"],
        "type": "A",
        "port": 8400,
        "refresh_interval": "",
    }
    assert scrape["authorization"]["credentials_file"] == "/run/secrets/millrace_key"
    assert yaml.safe_load(sources.read_text())["datasources"][0]["url"] == "http://prometheus:9090"


@pytest.mark.skipif(shutil.which("caddy") is None, reason="Caddy is not installed")
def test_caddy_accepts_the_configuration_of_the_proxy() -> None:
    config = ROOT / "deploy" / "caddy" / "Caddyfile"
    subprocess.run(["caddy", "validate", "--adapter", "caddyfile", "--config", config], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = (ROOT / "deploy" / "systemd" / "millrace.service").read_text()
    assert "ExecStart=/opt/millrace/bin/millrace serve" in unit
    (tmp_path / "millrace.service").write_text(unit.replace("/opt/millrace/bin/millrace", "/bin/true"))

    checked = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "millrace.service"], capture_output=True, text=True, check=False
    )

    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_accepts_the_dockerfile() -> None:
    subprocess.run(["hadolint", ROOT / "Dockerfile"], check=True)


def test_the_dockerfile_keeps_the_rules_of_hadolint_that_matter() -> None:
    instructions = dockerfile()
    names = [name for name, _ in instructions]
    runs = [rest for name, rest in instructions if name == "RUN"]

    assert "MAINTAINER" not in names  # DL4000
    assert "ADD" not in names  # DL3020
    assert names.count("ENTRYPOINT") == names.count("CMD") == names.count("HEALTHCHECK") == 1  # DL4003, DL4004, DL3012
    assert all(rest.startswith("/") for name, rest in instructions if name == "WORKDIR")  # DL3000
    assert not [run for run in runs if re.search(r"\b(sudo|apt|cd)\b|apt-get|latest", run)]  # DL3004, DL3027, DL3003
    assert not [run for run in runs if "|" in run.replace("||", "")]  # DL4006: a pipe needs pipefail
    assert all("--requirement" in run or "--no-deps" in run for run in runs if "pip install" in run)  # DL3013
    assert any("PIP_NO_CACHE_DIR=1" in rest for name, rest in instructions if name == "ENV")  # DL3042
    assert all(rest.startswith("[") for name, rest in instructions if name in {"CMD", "ENTRYPOINT"})  # DL3025


def test_the_version_has_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "app/__init__.py"
    assert importlib.metadata.version("millrace") == __version__
    assert json.loads((ROOT / "openapi" / "openapi.json").read_text())["info"]["version"] == __version__
    for name in ("Dockerfile", "compose.yaml", "pyproject.toml"):
        assert __version__ not in re.sub(r"[\d.]+\d(?=[\"@])|>=[\d.]+", "", (ROOT / name).read_text())


def test_the_documents_of_the_site_are_all_in_its_navigation() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = [
        page
        for entry in site["nav"]
        for value in entry.values()
        for page in ([value] if isinstance(value, str) else [path for one in value for path in one.values()])
    ]

    assert [next(iter(entry)) for entry in site["nav"]] == [
        "Start",
        "Tutorial",
        "How-to guides",
        "Reference",
        "Explanation",
    ]
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
