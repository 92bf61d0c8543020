"""The report of a session: one HTML file that needs nothing else."""

from eval.report.page import ReportData, build_report_html

__all__ = ["ReportData", "build_report_html"]
