"""Defenses in a visible order: before the aggregator on every client, after it on the mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from fedpriv.defenses.base import Aggregator, Context, Defense, Report
from fedpriv.defenses.clip import Clip
from fedpriv.defenses.gaussian_noise import GaussianNoise
from fedpriv.wire import Tensors


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A list of defenses, sorted by where they act.

    Parameters
    ----------
    on_client : tuple of Defense
        Applied in order by each client to its own update.
    aggregator : Aggregator or None
        Who averages before the server sees anything; None sends every update to the server.
    on_aggregate : tuple of Defense
        Applied in order to the mean.

    Examples
    --------
    >>> from fedpriv.defenses import Averaging
    >>> Pipeline.of([Clip(clip_norm=1.0), Averaging(), GaussianNoise(clip_norm=1.0)]).on_client
    (Clip(clip_norm=1.0),)
    """

    on_client: tuple[Defense, ...] = ()
    aggregator: Aggregator | None = None
    on_aggregate: tuple[Defense, ...] = ()

    @classmethod
    def of(cls, defenses: Iterable[Defense | Aggregator]) -> Pipeline:
        """Sort `defenses` by place; a ``ValueError`` says what does not go together."""
        chain = tuple(defenses)
        for item in chain:
            if not isinstance(item, Defense | Aggregator):
                raise ValueError(
                    f"defenses must be objects such as Clip(clip_norm=1.0) or Averaging(), got {item!r}; "
                    "write a function as a subclass of fedpriv.defenses.Defense"
                )
        places = [place for place, item in enumerate(chain) if isinstance(item, Aggregator)]
        if len(places) > 1:
            raise ValueError(
                f"defenses may hold one aggregator, got {[chain[p] for p in places]}; keep one of them"
            )
        cut = places[0] if places else len(chain)
        aggregator = chain[cut] if places else None
        pipeline = cls(
            on_client=tuple(d for d in chain[:cut] if isinstance(d, Defense)),
            aggregator=aggregator if isinstance(aggregator, Aggregator) else None,
            on_aggregate=tuple(d for d in chain[cut + 1 :] if isinstance(d, Defense)),
        )
        for defense in pipeline.on_aggregate:
            if isinstance(defense, GaussianNoise):
                _demand_clipping(pipeline.on_client, defense)
        return pipeline

    def __bool__(self) -> bool:
        """Whether there is any defense at all."""
        return bool(self.on_client or self.aggregator or self.on_aggregate)

    def noise_std(self, weights: Mapping[str, float]) -> float:
        """Standard deviation of all Gaussian noise on one coordinate of the update as the server gets it.

        Parameters
        ----------
        weights : mapping of str to float
            Weight of each client in the mean; used only behind an aggregator.

        Returns
        -------
        float
            Independent noises add in variance; on the mean, client k's counts ``weights[k]**2``.
        """
        local = sum(d.noise_std() ** 2 for d in self.on_client if isinstance(d, GaussianNoise))
        if self.aggregator is None:
            return math.sqrt(local)
        averaged = local * sum(weight**2 for weight in weights.values())
        largest = max(weights.values())
        central = sum(d.noise_std(largest) ** 2 for d in self.on_aggregate if isinstance(d, GaussianNoise))
        return math.sqrt(averaged + central)


def apply_all(
    defenses: Sequence[Defense], update: Tensors, context: Context
) -> tuple[dict[str, torch.Tensor], list[Report]]:
    """Apply `defenses` in order; the reports come in the same order."""
    defended, reports = dict(update), []
    for defense in defenses:
        defended, report = defense(defended, context)
        reports.append(report)
    return defended, reports


def _demand_clipping(on_client: Sequence[Defense], noise: GaussianNoise) -> None:
    """Noise on a mean protects a client only if a `Clip` bounds what that client put into it.

    Client-side noise between the two is harmless: it does not depend on the data.
    """
    bounding = [defense for defense in on_client if not isinstance(defense, GaussianNoise)]
    last = bounding[-1] if bounding else None
    if not (isinstance(last, Clip) and last.clip_norm <= noise.clip_norm):
        raise ValueError(
            f"{noise} after an aggregator needs a Clip with clip_norm of at most {noise.clip_norm} before "
            f"it, got {last if last else 'none'}; without one a single client can move the mean by any "
            f"amount and the noise protects nobody: put Clip(clip_norm={noise.clip_norm}) directly before "
            "the aggregator"
        )
