"""What was measured, and whether it is what DESIGN.md asks for."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What a figure must be, and what we aim at.

    Attributes:
        higher: Whether more is better.
        unit: Written behind the figures.
    """

    must: float
    aim: float
    higher: bool = True
    unit: str = "×"

    def verdict(self, figure: float) -> str:
        """Say which of the two a figure meets."""
        sign = 1 if self.higher else -1
        if figure * sign >= self.aim * sign:
            return "aim met"
        return "must met" if figure * sign >= self.must * sign else "**missed**"

    def show(self, figure: float) -> str:
        """Write a figure with its unit."""
        return f"{figure:.3g} {self.unit}" if self.unit != "×" else f"{figure:.2f} ×"


@dataclass(frozen=True)
class Line:
    """One figure of the report.

    Attributes:
        name: P1 … P6, start, memory.
        what: What is measured, beside what.
        spread: Smallest and largest figure of the rounds.
        detail: The absolute numbers behind it, and how they were had.
    """

    name: str
    what: str
    database: str
    figure: float
    target: Target
    spread: tuple[float, float] | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        """Say which target is met."""
        return self.target.verdict(self.figure)

    def summary(self) -> str:
        """Return the line for a terminal."""
        verdict = self.verdict.strip("*")
        return f"{self.what}: {self.target.show(self.figure)} ({verdict}) {self.detail}"

    def row(self) -> str:
        """Return the line of the table."""
        target = self.target
        spread = "" if self.spread is None else f"{self.spread[0]:.3g}–{self.spread[1]:.3g}"
        sign = "≥" if target.higher else "≤"
        cells = (
            self.name,
            self.what,
            self.database,
            target.show(self.figure),
            spread,
            f"{sign} {target.show(target.must)}",
            f"{sign} {target.show(target.aim)}",
            self.verdict,
            self.detail,
        )
        return "| " + " | ".join(cells) + " |"


HEAD = "| | What | Database | Figure | Rounds | Must | Aim | | How |\n|---|---|---|---|---|---|---|---|---|"


def ratio_line(
    name: str,
    what: str,
    database: str,
    subject: Sequence[float],
    twin: Sequence[float],
    target: Target,
    detail: str,
) -> Line:
    """Return the line for the median ratio of interleaved rounds."""
    ratios = [mine / other for mine, other in zip(subject, twin, strict=True)]
    return Line(name, what, database, statistics.median(ratios), target, (min(ratios), max(ratios)), detail)


def per_s(rates: Sequence[float]) -> str:
    """Write the median of some rates."""
    return f"{statistics.median(rates):,.0f}/s"
