"""The lines in the log about outages of the database."""

from __future__ import annotations

import logging

import pytest

from app.storage.db.outages import Outages

CAUSE = OSError("permission denied for table topics")


def test_failures_of_some_statements_among_successes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    outages = Outages()
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            outages.begin("read", "the role lacks a right", CAUSE)
            assert outages.open
            outages.end("read")
            assert not outages.open

    began, ended = caplog.messages
    assert began == "the role lacks a right: permission denied for table topics"
    assert "the database answers again" in ended


def test_an_outage_of_another_cause_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    outages = Outages()
    with caplog.at_level(logging.ERROR):
        for detail in ("the role lacks a right", "the database cannot be reached; try again"):
            outages.begin("write", detail, CAUSE)
            outages.end("write")

    assert [each.partition(":")[0] for each in caplog.messages] == [
        "the role lacks a right",
        "the database cannot be reached",
    ]
