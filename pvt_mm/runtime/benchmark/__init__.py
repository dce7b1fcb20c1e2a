"""Speed and memory of the backbones and of whole models, beside the other implementations."""

from .case import Case
from .contenders import CONTENDERS, Unavailable
from .statistics import Ratio, Summary, ratio_of_medians, summarise
from .timing import Timings, time_interleaved

__all__ = [
    "CONTENDERS",
    "Case",
    "Ratio",
    "Summary",
    "Timings",
    "Unavailable",
    "ratio_of_medians",
    "summarise",
    "time_interleaved",
]
