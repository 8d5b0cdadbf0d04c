"""What all refusals are."""

from __future__ import annotations

from typing import ClassVar


class BrokerError(Exception):
    """A refusal with a name, a reason and facts; never the text of an internal exception.

    Args:
        detail: What is wrong with this request and what to do, one or two sentences.
        facts: Members added to the problem document, such as `log_start_offset`.
    """

    code: ClassVar[str]
    title: ClassVar[str]
    cause: ClassVar[str]
    cure: ClassVar[str]
    retriable: ClassVar[bool] = False
    """True promises that nothing was written and that the same request may be sent again."""

    def __init__(self, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts
