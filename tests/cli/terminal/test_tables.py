"""Tables on a terminal."""

from __future__ import annotations

import pytest

from app.cli.terminal.tables import emit_table

COLUMNS = ("name", "topic", "lock_duration_ms", "max_delivery_count", "paused")


def shown(capsys: pytest.CaptureFixture[str], width: int, *rows: tuple[object, ...]) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        emit_table(COLUMNS, rows)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_table_that_fits_has_one_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, 80, ("mails", "orders", 30_000, 5, False), ("a", "b", 1_000, 10, None)) == [
        "name   topic   lock_duration_ms  max_delivery_count  paused",
        "mails  orders            30,000                   5  false",
        "a      b                  1,000                  10  -",
    ]


def test_long_headers_are_split_after_underscores_and_cells_after_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, 46, ("mails", "orders 0-3, refunds 1", 30_000, 5, True)) == [
        "                      lock_       max_",
        "                  duration_  delivery_",
        "name   topic             ms      count  paused",
        "mails  orders        30,000          5  true",
        "       0-3,",
        "       refunds 1",
    ]


@pytest.mark.parametrize("width", range(20, 100, 7))
def test_no_width_splits_a_word_or_exceeds_the_terminal(capsys: pytest.CaptureFixture[str], width: int) -> None:
    lines = shown(capsys, width, ("emails-to-customers", "orders 0-3", 30_000, 5, False))

    words = {word for line in lines for word in line.split()}
    assert {"emails-to-customers", "30,000", "false"} <= words
    assert max(map(len, lines)) <= max(width, len("max_delivery_count  emails-to-customers"))


def test_a_table_that_does_not_fit_becomes_a_block_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    name = "n" * 60
    assert shown(capsys, 60, (name, "orders", 30_000, 5, False), ("b", "", 1_000, 10, None)) == [
        f"name                {name}",
        "topic               orders",
        "lock_duration_ms    30,000",
        "max_delivery_count  5",
        "paused              false",
        "",
        "name                b",
        "lock_duration_ms    1,000",
        "max_delivery_count  10",
        "paused              -",
    ]
