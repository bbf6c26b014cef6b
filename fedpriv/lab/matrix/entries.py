"""The rows of the matrix: every defense of `fedpriv.defenses` at a few strengths, chosen before measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from fedpriv.defenses import (
    DPSGD,
    AdaptiveClip,
    Averaging,
    Censor,
    Clip,
    GaussianNoise,
    InstaHide,
    Krum,
    L1Clip,
    LaplaceNoise,
    LayerClip,
    Median,
    MixUp,
    PerSampleClip,
    RandomPruning,
    SecretSharing,
    SecureAggregation,
    SignSGD,
    Soteria,
    StochasticQuantization,
    TopK,
    VariationalBottleneck,
)
from fedpriv.defenses.pipeline import AnyDefense
from fedpriv.lab.matrix.victims import Inside, Victim

Recipe = Callable[[Victim, int], Sequence[AnyDefense]]
"""``recipe(victim, batch)``: fresh defenses for clients that train on batches of that size."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One defense at one strength.

    Parameters
    ----------
    defense, strength : str
        As in the tables; entries of one defense form a front.
    family : str
        The panel of the figure.
    recipe : callable
        Makes the defenses.
    trained_as : callable, optional
        Stands in for `recipe` in the measurement of accuracy, where both give the same update to rounding
        and one is much slower (the masks of secure aggregation cancel).
    inside : callable, optional
        A layer for the model, if the defense is part of it.
    batch : int, default 1
        Images in the attacked batch.
    local_steps : int, default 1
        More than one: clients return parameters.
    pooled : bool, default False
        Whether the server sees one update of all clients.
    adaptive_needs : str, default ""
        What the adaptive attack needs beyond the update and the published protocol.
    """

    defense: str
    strength: str
    family: str
    recipe: Recipe
    trained_as: Recipe | None = None
    inside: Inside | None = None
    batch: int = 1
    local_steps: int = 1
    pooled: bool = False
    adaptive_needs: str = ""

    @property
    def name(self) -> str:
        """Defense and strength."""
        return f"{self.defense} {self.strength}".strip()


def nothing(victim: Victim, batch: int) -> Sequence[AnyDefense]:  # noqa: ARG001 (the interface)
    """No defense."""
    return ()


NONE = Entry(defense="no defense", strength="", family="contrast", recipe=nothing)
_JOINED = "a second round on the same model without this client"


def entries(victim: Victim) -> list[Entry]:
    """All rows for `victim`: the undefended one first.

    Examples
    --------
    >>> from fedpriv.lab.matrix.victims import MLP
    >>> rows = entries(MLP)
    >>> rows[0].name, len({row.name for row in rows}) == len(rows)
    ('no defense', True)
    """
    del victim  # the same rows for each; recipes are told the victim
    return [NONE, *_noise(), *_scaling(), *_compression(), *_inside_training(), *_pooling()]


def _noise() -> list[Entry]:
    gaussian = [
        _entry("Gaussian noise", f"σ {s:g}", "noise", GaussianNoise(noise_multiplier=s))
        for s in (1e-4, 1e-3, 1e-2, 1e-1)
    ]
    # The L1 norm of these gradients is about a hundred times the L2 norm: noise of comparable size.
    laplace = [
        _entry("Laplace noise", f"b {s:g}", "noise", LaplaceNoise(l1_clip_norm=50.0, noise_multiplier=s))
        for s in (2e-5, 2e-4, 2e-3)
    ]
    per_sample = [
        Entry(defense="DP-SGD", strength=f"σ {s:g}", family="noise", recipe=_dp_sgd(s))
        for s in (0.01, 0.1, 1.0, 10.0)
    ]
    central = [
        Entry(
            defense="central noise",
            strength=f"σ {s:g}",
            family="noise",
            recipe=_always(Clip(), Averaging(), GaussianNoise(noise_multiplier=s)),
            pooled=True,
            adaptive_needs=_JOINED,
        )
        for s in (0.01, 0.1, 1.0)
    ]
    return [*gaussian, *laplace, *per_sample, *central]


def _scaling() -> list[Entry]:
    return [
        *(_entry("clipping", f"{c:g}", "clipping", Clip(clip_norm=c)) for c in (1.0, 0.1)),
        *(_entry("clipping per layer", f"{c:g}", "clipping", LayerClip(clip_norm=c)) for c in (1.0, 0.1)),
        _entry("L1 clipping", "10", "clipping", L1Clip(l1_clip_norm=10.0)),
        _entry("adaptive clipping", "from 0.1", "clipping", AdaptiveClip(initial_clip_norm=0.1)),
        Entry(
            defense="clipping per sample",
            strength="0.1",
            family="clipping",
            recipe=lambda _, batch: (PerSampleClip(clip_norm=0.1, denominator=batch),),
        ),
    ]


def _compression() -> list[Entry]:
    return [
        *(_entry("top-k", f"{k:.1%}", "compression", TopK(kept_fraction=k)) for k in (0.1, 0.01, 0.001)),
        *(
            _entry("random pruning", f"{k:.1%}", "compression", RandomPruning(kept_fraction=k))
            for k in (0.1, 0.01, 0.001)
        ),
        _entry("signs", "", "compression", SignSGD(scale=0.01)),
        *(
            _entry("quantization", f"{n} levels", "compression", StochasticQuantization(levels=n))
            for n in (256, 16, 1)
        ),
    ]


def _inside_training() -> list[Entry]:
    soteria = [
        Entry(defense="Soteria", strength=f"{p:.0%}", family="training", recipe=_soteria(p))
        for p in (0.1, 0.8)
    ]
    layers: list[tuple[str, str, Inside]] = [
        ("PRECODE", "", lambda width: VariationalBottleneck(width, 32)),
        ("dropout", "20%", lambda _: nn.Dropout(0.2)),
        ("dropout", "50%", lambda _: nn.Dropout(0.5)),
    ]
    inside = [
        replace(NONE, defense=name, strength=strength, family="training", inside=layer)
        for name, strength, layer in layers
    ]
    mixing = [
        replace(_entry("mixup", "", "training", MixUp(num_classes=10)), batch=4),
        replace(_entry("InstaHide", "", "training", InstaHide(num_classes=10)), batch=4),
    ]
    steps = [
        replace(NONE, defense="local steps", strength=f"{n}", family="training", local_steps=n)
        for n in (5, 20)
    ]
    return [*soteria, *inside, *mixing, _entry("CENSOR", "", "training", Censor()), *steps]


def _pooling() -> list[Entry]:
    averaged = _always(Averaging())
    sums = [
        Entry(
            defense=name,
            strength="",
            family="pooling",
            recipe=recipe,
            trained_as=averaged,
            pooled=True,
            adaptive_needs=_JOINED,
        )
        for name, recipe in (
            ("averaging", averaged),
            ("secret sharing", _always(SecretSharing())),
            ("secure aggregation", lambda *_: (SecureAggregation(),)),
        )
    ]
    robust = [
        Entry(defense=name, strength="", family="pooling", recipe=recipe, pooled=True)
        for name, recipe in (("median", _always(Median())), ("Krum", _always(Krum(num_liars=1))))
    ]
    return [*sums, *robust]


def _entry(defense: str, strength: str, family: str, made: AnyDefense) -> Entry:
    return Entry(defense=defense, strength=strength, family=family, recipe=_always(made))


def _always(*made: AnyDefense) -> Recipe:
    """The same objects each time: but for secure aggregation, defenses keep nothing."""
    return lambda *_: made


def _dp_sgd(noise_multiplier: float) -> Recipe:
    return lambda _, batch: (DPSGD(noise_multiplier=noise_multiplier, denominator=batch),)


def _soteria(pruned_fraction: float) -> Recipe:
    return lambda victim, _: (Soteria(layer=victim.hidden, pruned_fraction=pruned_fraction),)
