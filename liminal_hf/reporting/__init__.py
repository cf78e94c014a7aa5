"""A report on the texts of a table: scores, figures of texts without labels, groups, and a page that shows them.

Requires the extra `report`.
"""

from .job import TableReport, report
from .statistics import eta_squared, hedges_g, mean_interval, welch_difference

__all__ = ["TableReport", "eta_squared", "hedges_g", "mean_interval", "report", "welch_difference"]
