import importlib.util
import logging

import pytest

if importlib.util.find_spec("flwr") is None:  # pip install "fedpriv[flower]"
    collect_ignore_glob = ["*"]
else:  # first, for it silences what Flower's own imports warn of
    import fedpriv.engines.flower  # noqa: F401


@pytest.fixture(autouse=True)
def _quiet():
    """Flower writes a page of log a run."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)
