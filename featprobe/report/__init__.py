"""A comparison is worth what its reader understands: drawn as one offline page, as tables and as figures.

The room only draws. Every number comes from `ReportContent`; curves and confusion matrices are counted from
its predictions.
"""

from __future__ import annotations

from featprobe.report.canaries import STAND_INS
from featprobe.report.console import console_costs, console_table
from featprobe.report.label_studies import console_labels, ratio, ratio_interval, title_of_study
from featprobe.report.leaks import write_leaks_page
from featprobe.report.page import write_report
from featprobe.report.panels import headline, title_of
from featprobe.report.statistics import statistics_lines
from featprobe.report.wording import digits, in_sentence

__all__ = [
    "STAND_INS",
    "console_costs",
    "console_labels",
    "console_table",
    "digits",
    "headline",
    "in_sentence",
    "ratio",
    "ratio_interval",
    "statistics_lines",
    "title_of",
    "title_of_study",
    "write_leaks_page",
    "write_report",
]
