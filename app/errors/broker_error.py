"""The base class of all errors for clients."""

from __future__ import annotations

from typing import ClassVar, Self


class BrokerError(Exception):
    """An error for the client, with a code, a cause and facts. It never contains the text of an internal exception.

    Args:
        detail: What is wrong with this request and what to do, in one or two sentences.
        facts: Members added to the problem document, such as `log_start_offset`.
    """

    code: ClassVar[str]
    title: ClassVar[str]
    cause: ClassVar[str]
    cure: ClassVar[str]
    retriable: ClassVar[bool] = False
    """True if nothing was written and the same request may be sent again."""

    def __init__(self, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts

    @classmethod
    def at(
        cls,
        index: int | None,
        field: str | None,
        detail: str,
        *,
        item: str = "record",
        message: str | None = None,
        **facts: object,
    ) -> Self:
        """Refuse one field of a request: the problem document has one entry in `errors`.

        Args:
            index: Index of the item in its list; None for a field outside of a list.
            field: Name of the field; None for the whole item.
            detail: What is wrong with it. Follows the field's name in a sentence, such as "must be base64".
            item: What the list contains, in the singular.
            message: The `detail` of the problem, instead of the sentence made of the parts.
            facts: As for the constructor.
        """
        entry: dict[str, object] = {"detail": detail}
        if field is not None:
            entry = {"field": field, **entry}
        if index is not None:
            entry = {"index": index, **entry}
        if message is None:
            place = "" if index is None else f"{item} {index}: " if field is not None else f"{item} {index} "
            message = f"{place}{detail}" if field is None else f"{place}{field} {detail}"
        return cls(message, **facts, errors=[entry])
