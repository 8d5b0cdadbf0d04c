"""The first key, and a server that does not start without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.cli.server.admin_key import create_admin_key
from app.cli.terminal.failure import CommandFailed
from tests.cli.processes import Cli, serving
from tests.serving import running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


async def test_a_key_made_in_the_database_is_that_of_an_admin(migrated_url: str) -> None:
    key_id, key = create_admin_key("first", "root", migrated_url)

    async with running({"database_url": migrated_url}) as (_, client):
        assert (await client.get("/v1/topics")).status_code == 401
        headers = {"X-API-Key": key}
        (shown,) = (await client.get("/v1/keys", headers=headers)).json()["items"]
        audit = (await client.get("/v1/topics/__audit/records", headers=headers)).json()["records"]

    assert (shown["key_id"], shown["principal"], shown["admin"]) == (key_id, "root", True)
    assert audit[0]["value"]["principal"] == "(local)"
    assert audit[0]["value"]["resource"] == {"key_id": key_id}


async def test_a_running_server_on_sqlite_has_to_be_stopped_first(sqlite_url: str) -> None:
    async with running({"database_url": sqlite_url}):
        with pytest.raises(CommandFailed, match="stop it"):
            create_admin_key("first", "root", sqlite_url)


def test_a_wrong_principal_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="principal must be"):
        create_admin_key("first", "a b", f"sqlite:///{tmp_path / 'millrace.db'}")


@pytest.mark.parametrize(
    "settings", [{"MILLRACE_HOST": "0.0.0.0"}, {"MILLRACE_HOST": "::"}, {"MILLRACE_AUTH": "keys"}], ids=str
)
def test_serve_refuses_to_start_where_it_needs_keys_and_there_are_none(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    done = Cli(tmp_path, "", settings)("serve", "--port", "0")

    assert done.code == 1
    for cure in ("millrace keys create --admin", "MILLRACE_ADMIN_KEY", "MILLRACE_AUTH=none"):
        assert cure in done.err


@pytest.mark.parametrize("settings", [{"MILLRACE_AUTH": "none"}, {"MILLRACE_ADMIN_KEY": "a" * 32}], ids=str)
def test_serve_starts_on_all_addresses_with_a_key_or_without_access_control(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    with serving(tmp_path, "--port", "0", "--host", "0.0.0.0", **settings) as running_server:
        assert "ready" in running_server.banner


@pytest.mark.parametrize("key", ["a" * 31, "a b" * 20, "ä" * 40])
def test_a_weak_admin_key_is_refused_and_not_repeated(tmp_path: Path, key: str) -> None:
    done = Cli(tmp_path, "", {"MILLRACE_ADMIN_KEY": key})("serve", "--port", "0")

    assert done.code != 0
    assert "at least 32" in done.err
    assert key not in done.err


def test_the_first_command_has_a_key_where_one_is_needed(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0", "--host", "0.0.0.0", MILLRACE_ADMIN_KEY="a" * 32) as running_server:
        assert 'curl -H "Authorization: Bearer $MILLRACE_API_KEY" --json' in running_server.banner
        assert "(listens on 0.0.0.0)" in running_server.banner
    log = (tmp_path / "server.log").read_text()
    assert "keys and records cross the network readable: set MILLRACE_TLS_CERT" in log


def test_a_server_without_access_control_on_a_network_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0", "--host", "0.0.0.0", MILLRACE_AUTH="none") as running_server:
        assert "curl --json" in running_server.banner
    assert "everyone who can reach 0.0.0.0" in (tmp_path / "server.log").read_text()
