"""Access control lists, as in Kafka: a principal is allowed or denied an operation on a resource from a host. Pure.

Source: Kafka's `StandardAuthorizer`: a matching deny wins over every allow, and without a matching allow the operation
is denied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

Operation = Literal["read", "write", "create", "delete", "alter", "describe", "all"]
ResourceType = Literal[
    "topic",
    "group",
    "queue",
    "webhook",
    "source",
    "producer",
    "position",
    "pipeline",
    "connector",
    "subject",
    "cluster",
]
PatternType = Literal["literal", "prefixed"]

CLUSTER: Final = "cluster"
"""The type of the one resource that stands for the installation, and its name."""
_ANY = "*"
_IMPLIES_DESCRIBE = frozenset({"read", "write", "delete", "alter"})
"""As in Kafka, an allow of one of these allows `describe` too; a deny does not."""


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an access control list is about; the literal name `*` stands for all names."""

    type: ResourceType
    name: str
    pattern: PatternType = "literal"

    def covers(self, name: str) -> bool:
        """Return whether a name matches. A topic with the prefix `__` is matched only by its literal name."""
        if self.pattern == "literal" and self.name == name:
            return True
        if self.type == "topic" and name.startswith("__"):
            return False
        return name.startswith(self.name) if self.pattern == "prefixed" else self.name == _ANY


class Acl(msgspec.Struct, frozen=True):
    """One entry of the access control lists.

    Attributes:
        principal: Name of the principal; `*` stands for all.
        host: Address of the client; `*` stands for all.
    """

    principal: str
    permission: Literal["allow", "deny"]
    operation: Operation
    resource: Resource
    host: str = _ANY

    def matches(self, operation: Operation, name: str, host: str) -> bool:
        """Return whether the entry is about this operation on a resource of its type, from this host."""
        if self.host not in {_ANY, host}:
            return False
        if not (self.operation in {"all", operation} or self._implies(operation)):
            return False
        return self._covers_denied(name) if self.permission == "deny" else self.resource.covers(name)

    def _implies(self, operation: Operation) -> bool:
        return operation == "describe" and self.permission == "allow" and self.operation in _IMPLIES_DESCRIBE

    def _covers_denied(self, name: str) -> bool:
        """Return whether a deny covers a name: of a topic with the prefix `__` too, by any pattern."""
        resource = self.resource
        if resource.pattern == "prefixed":
            return name.startswith(resource.name)
        return resource.name in {_ANY, name}


class AclSet:
    """The access control lists of an installation."""

    def __init__(self, acls: Iterable[Acl] = ()) -> None:
        self._entries: dict[tuple[str, str], list[Acl]] = {}
        self.has_hosts = False
        """Whether the address of a client counts."""
        for acl in acls:
            self.has_hosts |= acl.host != _ANY
            self._entries.setdefault((acl.principal, acl.resource.type), []).append(acl)

    def allows(self, principal: str, host: str, operation: Operation, resource_type: ResourceType, name: str) -> bool:
        """Return whether a principal that is no super user may run an operation on a resource.

        `create` of a resource is also allowed by `create` on the cluster.
        """
        matching = [
            acl
            for who in (principal, _ANY)
            for acl in self._entries.get((who, resource_type), ())
            if acl.matches(operation, name, host)
        ]
        if any(acl.permission == "deny" for acl in matching):
            return False
        if matching:
            return True
        if operation == "create" and resource_type != CLUSTER:
            return self.allows(principal, host, "create", CLUSTER, CLUSTER)
        return False
