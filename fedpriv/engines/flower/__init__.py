"""Flower with a curious server: record what it sees, defend what leaves a client, run it anywhere.

``pip install fedpriv[flower]``. Nothing of Flower is imported before this package is.

- `CuriousStrategy` around any strategy records a `fedpriv.Transcript`.
- `defense_mod` turns fedpriv defenses into a mod of a ClientApp.
- `run_in_process` runs both apps in one process, `simulate` with ray, `Loopback` as real processes.
"""

from fedpriv.engines.flower._require import require_flower

require_flower()

from fedpriv.engines.flower.arrays import from_record, to_record  # noqa: E402 (after the check)
from fedpriv.engines.flower.curious import CuriousStrategy  # noqa: E402
from fedpriv.engines.flower.engine import FlowerEngine  # noqa: E402
from fedpriv.engines.flower.grid import InProcessGrid, run_in_process  # noqa: E402
from fedpriv.engines.flower.legacy import CuriousLegacyStrategy  # noqa: E402
from fedpriv.engines.flower.loopback import Loopback  # noqa: E402
from fedpriv.engines.flower.mod import DefenseMod, defense_mod  # noqa: E402
from fedpriv.engines.flower.recorder import Fault  # noqa: E402
from fedpriv.engines.flower.simulation import simulate  # noqa: E402

__all__ = [
    "CuriousLegacyStrategy",
    "CuriousStrategy",
    "DefenseMod",
    "Fault",
    "FlowerEngine",
    "InProcessGrid",
    "Loopback",
    "defense_mod",
    "from_record",
    "run_in_process",
    "simulate",
    "to_record",
]
