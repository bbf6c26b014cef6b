"""Flower's own simulation with ray."""

import importlib.util

import pytest

from fedpriv.engines.flower import CuriousStrategy, simulate
from fedpriv.losses import squared_error
from tests.engines.flower.scenes import client_app, fedavg, model, server_app

HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not HAS_RAY, reason='ray is not installed: pip install "flwr[simulation]"')
@pytest.mark.filterwarnings("ignore")  # of ray's, not ours
def test_a_curious_strategy_records_a_simulation():
    strategy = CuriousStrategy(fedavg(), model=model(), loss_fn=squared_error)
    simulate(server_app(strategy), client_app(), num_clients=2)
    assert len(strategy.transcript) == 2
    assert strategy.faults == []
