"""`millrace keys`: create, list and revoke API keys."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from app.domain.access.api_key import parse_key
from app.storage.access.keys import find
from app.storage.db.opening import open_storage
from tests.cli.processes import Cli
from tests.cli.pseudo_terminal import on_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.processes import Serving

DATABASE = "sqlite:///millrace.db"


def with_key(cli: Cli, key: str) -> Cli:
    return replace(cli, variables=cli.variables | {"MILLRACE_API_KEY": key})


def test_a_key_is_created_used_listed_and_revoked(admin: Cli) -> None:
    before_ms = time.time_ns() // 1_000_000
    done = admin.ok("keys", "create", "laptop of Ann", "--principal", "ann", "--admin", "--expires-days", "2")
    created = json.loads(done.out)
    assert done.err.startswith("millrace: the key is shown only now")
    assert created["key"].startswith(f"mr_{created['key_id']}_")
    assert (created["name"], created["principal"], created["admin"]) == ("laptop of Ann", "ann", True)
    assert 0 <= created["expires_at_ms"] - before_ms - 2 * 86_400_000 < 60_000

    anns = with_key(admin, created["key"])
    assert created["key_id"] in [json.loads(line)["key_id"] for line in anns.ok("keys", "list").lines]
    assert created["key"].encode() not in admin.ok("keys", "list").out

    assert admin("keys", "revoke", created["key_id"]).code == 2
    revoked = admin.ok("keys", "revoke", created["key_id"], "--yes")
    assert revoked.err == f"millrace: revoked {created['key_id']}\n"
    assert anns("keys", "list").code == 4
    assert admin("keys", "revoke", created["key_id"], "--yes").code == 3


def test_the_name_is_the_principal_if_no_other_is_given(admin: Cli) -> None:
    created = json.loads(admin.ok("keys", "create", "billing-service").out)

    assert (created["principal"], created["admin"]) == ("billing-service", False)
    assert with_key(admin, created["key"])("keys", "list").code == 4
    assert admin("keys", "create", "two words").code == 4
    assert admin("keys", "create").code == 2


def test_a_key_in_the_place_of_its_id_is_refused_and_not_sent(admin: Cli) -> None:
    key = json.loads(admin.ok("keys", "create", "mistaken").out)["key"]

    done = admin("keys", "revoke", key, "--yes", "-v")

    assert done.code == 2
    assert "give the id, the part between the underscores" in " ".join(done.err.replace("│", " ").split())
    assert "curl" not in done.err


def test_a_terminal_shows_the_key_in_a_table(admin: Cli) -> None:
    code, shown = on_terminal(admin, "keys", "create", "shown")
    assert code == 0
    assert re.search(r"^key +mr_\w+$", shown, re.MULTILINE)


def test_the_first_key_is_made_in_the_database_of_a_stopped_server(tmp_path: Path) -> None:
    created = json.loads(Cli(tmp_path, "").ok("keys", "create", "--admin", "--database-url", DATABASE).out)

    key = parse_key(created["key"])
    opened = open_storage(f"sqlite:///{tmp_path / 'millrace.db'}")
    stored = opened.read_now(find, created["key_id"])
    opened.close()
    assert key is not None
    assert stored is not None
    assert (stored.name, stored.principal, stored.is_admin) == ("admin", "admin", True)
    assert stored.secret_hash == key.secret_hash


def test_no_key_is_made_in_the_database_of_a_running_server(secure_server: Serving, tmp_path: Path) -> None:
    found = re.search(r"data +(\S+) \(SQLite\)", secure_server.banner)
    assert found is not None

    done = Cli(tmp_path, "")("keys", "create", "first", "--admin", "--database-url", f"sqlite:///{found[1]}")

    assert (done.code, done.out) == (1, b"")
    assert done.err.startswith("millrace: a server has this database open: make the key through it, with --url ")


def test_in_the_database_itself_only_a_key_of_an_admin_is_made(tmp_path: Path) -> None:
    alone = Cli(tmp_path, "", {})
    for options in (("--database-url", "sqlite:///x.db"), ("--admin", "--expires-days", "1")):
        done = alone("keys", "create", "first", *options)
        assert (done.code, done.err) == (
            1,
            "millrace: in the database itself only a key with --admin is made, which never expires\n",
        )
