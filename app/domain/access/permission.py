"""What a principal needs to run an operation of the API. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from app.domain.access.acl import CLUSTER, Operation, ResourceType


class Permission(NamedTuple):
    """What an operation of the API needs.

    Attributes:
        kind: `public` needs no key. `any` needs a principal: the handler checks or filters what the body or the answer
            names. `admin` needs a super user. `resource` needs an operation on a resource.
        operation: The operation of a resource.
        resource_type: The type of the resource.
        parameter: The parameter of the path with the name of the resource; empty for the cluster.
    """

    kind: Literal["public", "any", "admin", "resource"]
    operation: Operation = "describe"
    resource_type: ResourceType = "cluster"
    parameter: str = ""

    def describe(self) -> str:
        """Return the permission in words, for the OpenAPI document."""
        if self.kind == "public":
            return "no key"
        if self.kind == "any":
            return "any key"
        if self.kind == "admin":
            return "a key of an admin"
        return f"`{self.operation}` on the {self.resource_type}"


def is_change(permission: Permission) -> bool:
    """Return whether an operation changes what the installation has, besides records and offsets."""
    if permission.kind == "resource":
        return permission.operation in {"create", "alter", "delete"}
    return permission.kind == "admin"


PUBLIC = Permission("public")
ANY_PRINCIPAL = Permission("any")
ADMIN = Permission("admin")


def on(resource_type: ResourceType, operation: Operation, parameter: str | None = None) -> Permission:
    """Return the permission for an operation on the resource that the path names.

    Args:
        resource_type: The type, which is also the name of the path parameter.
        operation: The operation.
        parameter: The path parameter, if it has another name.
    """
    name = "" if resource_type == CLUSTER else parameter or resource_type
    return Permission("resource", operation, resource_type, name)
