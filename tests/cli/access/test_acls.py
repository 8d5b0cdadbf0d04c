"""`millrace acls`: add, list and remove entries of the access control lists."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.cli.pseudo_terminal import on_terminal

if TYPE_CHECKING:
    from tests.cli.processes import Cli


def test_an_entry_allows_what_it_names_until_it_is_removed(admin: Cli, topic: str) -> None:
    admin.ok("produce", topic, stdin=b"1\n")
    key = json.loads(admin.ok("keys", "create", "reader", "--principal", topic).out)["key"]
    reader = replace(admin, variables=admin.variables | {"MILLRACE_API_KEY": key})
    assert reader("consume", topic).code == 3

    added = admin.ok("acls", "add", topic, "read", "topic", topic)
    entry = json.loads(added.out)
    assert added.err == f"millrace: added {entry['acl_id']}\n"
    assert (
        admin.ok("acls", "add", topic, "read", "topic", topic).err == f"millrace: there already is {entry['acl_id']}\n"
    )
    assert reader.ok("consume", topic, "--format", "values").out == b"1\n"
    assert reader("produce", topic, stdin=b"2\n").code == 4

    prefixed = json.loads(admin.ok("acls", "add", topic, "all", "topic", topic[:5], "--prefixed", "--deny").out)
    assert (prefixed["permission"], prefixed["resource"]["pattern"]) == ("deny", "prefixed")
    assert reader("consume", topic).code == 3
    listed = [json.loads(line) for line in admin.ok("acls", "list", "--principal", topic).lines]
    assert listed == [entry, prefixed]

    assert admin("acls", "remove", prefixed["acl_id"]).code == 2
    removed = admin.ok("acls", "remove", prefixed["acl_id"], entry["acl_id"], "--yes")
    assert removed.err == f"millrace: removed {prefixed['acl_id']}\nmillrace: removed {entry['acl_id']}\n"
    assert admin.ok("acls", "list", "--principal", topic).out == b""
    assert admin("acls", "remove", entry["acl_id"], "--yes").code == 3


def test_the_cluster_needs_no_name_and_all_others_do(admin: Cli, topic: str) -> None:
    added = json.loads(admin.ok("acls", "add", topic, "describe", "cluster", "--host", "192.0.2.1").out)
    assert (added["resource"], added["host"]) == (
        {"type": "cluster", "name": "cluster", "pattern": "literal"},
        "192.0.2.1",
    )

    done = admin("acls", "add", topic, "read", "group")
    assert done.code == 2
    assert "name the group, or * for all (in quotes)" in " ".join(done.err.replace("│", " ").split())
    assert admin("acls", "add", topic, "read", "table", "x").code == 2
    assert admin("acls", "add", topic, "read", "topic", "x", "--host", "everywhere").code == 4


def test_a_terminal_shows_tables(admin: Cli, topic: str) -> None:
    code, shown = on_terminal(admin, "acls", "add", topic, "write", "topic", "*")

    assert code == 0
    assert re.search(rf"{topic} +allow +write +topic +\* +literal", shown)
