from .check import compare_latency as compare_latency
from .check import to_array as to_array
from .exporting import ExportSummary as ExportSummary
from .exporting import draft as draft
from .exporting import export as export
from .sessions import open_session as open_session
