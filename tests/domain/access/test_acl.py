"""Access control lists: Kafka's rules."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.access.acl import Acl, AclSet, Operation, Resource, ResourceType


def acl(
    operation: Operation,
    name: str = "orders",
    *,
    principal: str = "app",
    permission: Any = "allow",
    pattern: Any = "literal",
    kind: ResourceType = "topic",
    host: str = "*",
) -> Acl:
    return Acl(principal, permission, operation, Resource(kind, name, pattern), host)


def allows(acls: list[Acl], operation: Operation, name: str = "orders", **others: Any) -> bool:
    kind: ResourceType = others.get("kind", "topic")
    return AclSet(acls).allows(others.get("principal", "app"), others.get("host", "10.0.0.1"), operation, kind, name)


def test_without_a_matching_entry_nothing_is_allowed() -> None:
    assert not allows([], "read")
    assert not allows([acl("read", "invoices")], "read")
    assert not allows([acl("read", principal="other")], "read")
    assert not allows([acl("read", kind="group")], "read")


def test_an_entry_for_another_principal_does_not_open_the_resource() -> None:
    """KAFKA-14435: no entry of a principal is not the same as no entry of a resource."""
    assert not allows([acl("read", principal="other"), acl("read", "invoices")], "read")


def test_a_deny_wins_over_every_allow() -> None:
    denied = acl("read", permission="deny")

    assert not allows([acl("read"), acl("all", "*"), denied], "read")
    assert not allows([acl("read"), acl("all", "ord", pattern="prefixed", permission="deny")], "read")
    assert not allows([acl("read"), acl("read", principal="*", permission="deny")], "read")
    assert allows([acl("all"), denied], "write")


def test_the_operations_that_imply_describe() -> None:
    for operation in ("read", "write", "delete", "alter", "describe", "all"):
        assert allows([acl(operation)], "describe"), operation
    assert not allows([acl("create")], "describe")


def test_a_deny_of_read_does_not_deny_describe() -> None:
    entries = [acl("describe"), acl("read", permission="deny")]

    assert allows(entries, "describe")
    assert not allows(entries, "read")


@pytest.mark.parametrize(("name", "matches"), [("orders", True), ("orders-eu", True), ("order", False), ("x", False)])
def test_a_prefix_matches_the_names_that_begin_with_it(name: str, matches: bool) -> None:
    assert allows([acl("read", "orders", pattern="prefixed")], "read", name) is matches


def test_the_literal_star_matches_all_names_and_a_prefix_has_no_star() -> None:
    assert allows([acl("read", "*")], "read", "anything")
    assert not allows([acl("read", "ord*")], "read", "orders")


def test_a_principal_star_is_every_principal() -> None:
    assert allows([acl("read", principal="*")], "read", principal="somebody")


def test_an_address_restricts_an_entry() -> None:
    entries = [acl("read", host="10.0.0.1")]

    assert allows(entries, "read", host="10.0.0.1")
    assert not allows(entries, "read", host="10.0.0.2")


def test_topics_of_the_server_need_their_literal_name() -> None:
    assert allows([acl("read", "__audit")], "read", "__audit")
    assert not allows([acl("all", "*")], "read", "__audit")
    assert not allows([acl("read", "__", pattern="prefixed")], "read", "__audit")
    assert allows([acl("read", "*", kind="group")], "read", "__group", kind="group")


def test_a_deny_by_prefix_covers_topics_of_the_server_too() -> None:
    deny = acl("read", "__", pattern="prefixed", permission="deny")

    assert not allows([acl("read", "__audit"), deny], "read", "__audit")


def test_create_on_the_cluster_allows_to_create_anything_but_what_is_denied() -> None:
    cluster = acl("create", "cluster", kind="cluster")
    denied = acl("create", "secret", permission="deny", pattern="prefixed")

    assert allows([cluster], "create", "orders")
    assert allows([cluster], "create", "billing", kind="group")
    assert not allows([cluster, denied], "create", "secrets")
    assert not allows([cluster], "read", "orders")
