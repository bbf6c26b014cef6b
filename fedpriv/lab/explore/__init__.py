"""What the explorer's page computes, without the page: choose, observe, attack, grade.

`observe` and the limits of `fedpriv.lab.explore.limits` take moments; `answer` attacks and may take as long
as the choice allows, so a `Desk` lets another process do it, which can be stopped at any time.
"""

from fedpriv.lab.explore.answer import Answer, answer
from fedpriv.lab.explore.choice import Choice, Data, Model
from fedpriv.lab.explore.desk import Desk, Job
from fedpriv.lab.explore.scene import Scene, observe

__all__ = ["Answer", "Choice", "Data", "Desk", "Job", "Model", "Scene", "answer", "observe"]
