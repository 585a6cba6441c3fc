"""Comparisons: learning curves in, tables, statistics and pictures out.

curves = [Curve("bald", "mc_dropout", seed=0, counts=(20, 40), metrics={"accuracy": (0.7, 0.8)}), ...]
statistics = compare_arms(curves, against="random")
print(statistics)                           # the verdicts in sentences
statistics.arms["bald"].area                # mean, low, high
statistics.verdicts[0].area.p_holm

studies, folder, notes = find_studies("mnist-1000", Path("runs"))      # runs on the disk
write(Path("runs/mnist-1000"))                                         # report.md, CSV files, pictures
"""

from activebdl.report.arms import Arm, Estimate, Price
from activebdl.report.curves import Curve, by_label, to_csv
from activebdl.report.plots import plot
from activebdl.report.reading import Study, curve_of, find_studies, studies_in
from activebdl.report.table import table
from activebdl.report.verdicts import Statistics, Test, Verdict, compare_arms
from activebdl.report.writing import conclude, write, write_report, write_studies

__all__ = [
    "Arm",
    "Curve",
    "Estimate",
    "Price",
    "Statistics",
    "Study",
    "Test",
    "Verdict",
    "by_label",
    "compare_arms",
    "conclude",
    "curve_of",
    "find_studies",
    "plot",
    "studies_in",
    "table",
    "to_csv",
    "write",
    "write_report",
    "write_studies",
]
