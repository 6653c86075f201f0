"""The report, drawn from results alone: figures (SVG), tables (CSV) and one self-contained page."""

from jaxdiff.report.page import draw, write

__all__ = ["draw", "write"]
