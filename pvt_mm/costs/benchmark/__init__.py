"""Speed and memory of the backbones and of whole models, beside the other implementations."""

from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.contenders import CONTENDERS, Unavailable
from pvt_mm.costs.benchmark.statistics import Ratio, Summary, ratio_of_medians, summarise
from pvt_mm.costs.benchmark.timing import Timings, time_interleaved

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
