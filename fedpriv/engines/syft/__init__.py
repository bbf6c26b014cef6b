"""PySyft of today as an engine: jobs, reviews and approvals of ``syft-rds``.

``pip install fedpriv[syft]``. Nothing of PySyft is imported before a `SyftEngine` connects. The pair of
clients runs over PySyft's own mock of a shared drive, in one process: it is the real *workflow*, not
isolation between machines.
"""

from fedpriv.engines.syft.engine import SyftEngine
from fedpriv.engines.syft.peer import Outcome
from fedpriv.engines.syft.review import ApproveAnything, OnlyRequests, Review, Verdict

__all__ = ["ApproveAnything", "OnlyRequests", "Outcome", "Review", "SyftEngine", "Verdict"]
