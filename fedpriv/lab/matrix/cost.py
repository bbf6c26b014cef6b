"""Bytes that one client sends in one round, by a stated rule.

====================  ================================================================================
update                bytes
====================  ================================================================================
dense                 that of its numbers, 4 for float32
pruned, k of d left   4 k for the values, and for the places the smaller of k indices of log2(d) bits and
                      a mask of d bits; never more than dense
signs                 d log2(3) bits, for zeros are sent as well, and 4 for the scale
quantized, s levels   d log2(2 s + 1) bits, and 4 for the scale
secret sharing        8 d to each other client, and 8 d to the server
secure aggregation    what the client that sent most did send, keys and shares included (reported)
====================  ================================================================================

An alphabet of a values takes log2(a) bits a number when many are packed together; entropy coding would save
more and depends on the data. Headers of the transport are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from fedpriv.defenses import Report
from fedpriv.wire import Observation
from fedpriv.wire.mechanisms import Quantized, SignOnly, Sparsified

_SCALE = 4


def bytes_sent(observation: Observation, reports: Iterable[Report]) -> int:
    """What one client sent so that the server got `observation`.

    Parameters
    ----------
    observation : Observation
        Of one client, or of an aggregate.
    reports : iterable of Report
        Of the same round.

    Examples
    --------
    >>> import torch
    >>> update = [torch.ones(1, 3), torch.ones(1)]
    >>> bytes_sent(Observation(torch.nn.Linear(3, 1), update, torch.nn.functional.mse_loss), ())
    16
    """
    for report in reports:
        if report.defense == "SecureAggregation":
            return int(report.values["most_bytes_sent"])
        if report.defense == "SecretSharing":
            return 8 * _count(observation) * int(report.values["num_clients"])
    known = observation.knowledge
    numbers = _count(observation)
    if known.applied(Sparsified):
        return _pruned(observation, numbers)
    if known.applied(SignOnly):
        return _packed(numbers, 3)
    if quantized := known.applied(Quantized):
        return _packed(numbers, 2 * quantized[0].levels + 1)
    return _dense(observation)


def _pruned(observation: Observation, numbers: int) -> int:
    kept = sum(int((tensor != 0).sum()) for tensor in _sent(observation))
    places = min(kept * math.ceil(math.log2(max(numbers, 2))), numbers)
    return min(4 * kept + math.ceil(places / 8), _dense(observation))


def _packed(numbers: int, alphabet: int) -> int:
    return math.ceil(numbers * math.log2(alphabet) / 8) + _SCALE


def _dense(observation: Observation) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _sent(observation))


def _count(observation: Observation) -> int:
    return sum(tensor.numel() for tensor in _sent(observation))


def _sent(observation: Observation) -> list:  # type: ignore[type-arg]
    return list(observation.update.tensors.values())
