"""The report of a session: one HTML file that needs nothing else."""

from eval.report.page import ReportData, WishRow, build_report_html

__all__ = ["ReportData", "WishRow", "build_report_html"]
