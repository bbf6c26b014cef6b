"""Defense × attack × strength: what each leaves of the accuracy, what it sends, what leaks, and the limit.

`entries` lists the rows, `scene` the protocol, `opponents` the two attackers, `measure` one row, `tables` and
`figure` what is written, `record` the cells that benchmarks keep. Whatever is chosen, it is chosen without
the truth: opponents go by their own residual, learning rates by training images of a seed that no row shows.
"""

from fedpriv.lab.matrix import record
from fedpriv.lab.matrix.entries import NONE, Entry, entries
from fedpriv.lab.matrix.figure import plot_fronts
from fedpriv.lab.matrix.limits import ASSUMPTIONS, Limits
from fedpriv.lab.matrix.measure import Leak, Leaked, Learned, Plan, Row, measure
from fedpriv.lab.matrix.tables import read_csv, read_json, write_csv, write_json
from fedpriv.lab.matrix.victims import CONVNET, MLP, VICTIMS, Victim

__all__ = [
    "ASSUMPTIONS",
    "CONVNET",
    "MLP",
    "NONE",
    "VICTIMS",
    "Entry",
    "Leak",
    "Leaked",
    "Learned",
    "Limits",
    "Plan",
    "Row",
    "Victim",
    "entries",
    "measure",
    "plot_fronts",
    "read_csv",
    "read_json",
    "record",
    "write_csv",
    "write_json",
]
