"""The distributed files but the wheel: image, compose file, lock files."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
import yaml

from tests.checkout import ROOT, tracked_files

LOCKS = ["requirements.lock", "requirements-dev.lock"]
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


@pytest.mark.parametrize("name", LOCKS)
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

    assert set(services) == {"postgres", "migrate", "millrace"}
    assert "pg_isready" in services["postgres"]["healthcheck"]["test"]
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["restart"] == "no"
    assert services["millrace"]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_compose_can_run_two_nodes() -> None:
    service = compose_services()["millrace"]

    assert "container_name" not in service
    assert "volumes" not in service
    assert service["environment"]["MILLRACE_DATABASE_URL"].startswith("postgresql://")


def test_compose_pins_its_images() -> None:
    for service in compose_services().values():
        assert re.search(r":\d", service["image"])
