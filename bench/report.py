"""The figures of a run and their targets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """The required and the desired value of a figure.

    Attributes:
        higher: Whether a higher value is better.
        unit: The unit of the values.
    """

    must: float
    aim: float
    higher: bool = True
    unit: str = "×"

    def verdict(self, value: float) -> str:
        """Return which of the two a value meets."""
        sign = 1 if self.higher else -1
        if value * sign >= self.aim * sign:
            return "aim met"
        return "must met" if value * sign >= self.must * sign else "**missed**"

    def show(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.3g} {self.unit}" if self.unit != "×" else f"{value:.2f} ×"


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    Attributes:
        name: P1 … P6, G1 …, Q1 …, start, memory.
        what: What is measured, and after the colon its baseline.
        spread: Smallest and largest value of the rounds.
        detail: The absolute numbers, and how they were measured.
    """

    name: str
    what: str
    database: str
    value: float
    target: Target
    spread: tuple[float, float] | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        """Which target is met."""
        return self.target.verdict(self.value)

    def summary(self) -> str:
        """Return the figure as a line for a terminal."""
        verdict = self.verdict.strip("*")
        return f"{self.what}: {self.target.show(self.value)} ({verdict}) {self.detail}"

    def row(self) -> str:
        """Return the figure as a row of the table."""
        target = self.target
        spread = "" if self.spread is None else f"{self.spread[0]:.3g}–{self.spread[1]:.3g}"
        sign = "≥" if target.higher else "≤"
        cells = (
            self.name,
            self.what,
            self.database,
            target.show(self.value),
            spread,
            f"{sign} {target.show(target.must)}",
            f"{sign} {target.show(target.aim)}",
            self.verdict,
            self.detail,
        )
        return "| " + " | ".join(cells) + " |"


HEAD = "| | What | Database | Figure | Rounds | Must | Aim | | How |\n|---|---|---|---|---|---|---|---|---|"


def ratio_figure(
    name: str,
    what: str,
    database: str,
    subject: Sequence[float],
    baseline: Sequence[float],
    target: Target,
    detail: str,
) -> Figure:
    """Return the figure for the median ratio of alternating rounds."""
    ratios = [one / other for one, other in zip(subject, baseline, strict=True)]
    return Figure(name, what, database, statistics.median(ratios), target, (min(ratios), max(ratios)), detail)


def per_s(rates: Sequence[float]) -> str:
    """Return the median of some rates as text."""
    return f"{statistics.median(rates):,.0f}/s"
