"""The HTML report."""

from streamscalar.report.page import write_report

__all__ = ["write_report"]
