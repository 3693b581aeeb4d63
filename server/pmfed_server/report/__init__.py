"""What a run leaves for people: the report page, the terminal table and the privacy statement."""

from __future__ import annotations

from pmfed_server.report.method_page import write_method_report
from pmfed_server.report.page import write_report
from pmfed_server.report.promise import statement
from pmfed_server.report.terminal import spending, table

__all__ = ["spending", "statement", "table", "write_method_report", "write_report"]
