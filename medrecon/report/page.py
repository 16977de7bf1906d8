"""The page of a case: one HTML file that loads nothing."""

from __future__ import annotations

from medrecon.report.case import Case

__all__ = ["page"]


def page(case: Case) -> bytes:
    """The page of a case."""
    raise NotImplementedError
