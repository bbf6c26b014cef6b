"""The rows of the table: a defense, a network, an attack that does not know it, and one that does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import attacks
from attacks import ConsistencyPeeling, FirstLayerInversion
from attacks.adaptive import (
    ClippedInversion,
    LeaveOut,
    MixtureInversion,
    NoisyInversion,
    NoisySearch,
    PrunedInversion,
    QuantizedInversion,
    SignInversion,
)
from fedpriv.defenses import (
    Censor,
    Clip,
    GaussianNoise,
    InstaHide,
    LaplaceNoise,
    LayerClip,
    MixUp,
    PerSampleClip,
    RandomPruning,
    SignSGD,
    Soteria,
    StochasticQuantization,
    TopK,
)

from .measure import DLG_ONCE
from .scenes import DROPOUT, PRECODE, Scene, lenet, network

T2, PEEL, DLG = FirstLayerInversion(), ConsistencyPeeling(), DLG_ONCE
WIDE, LENET, TANH = network(128, 128), lenet(nn.Sigmoid), lenet(nn.Tanh)
RANGED = SignInversion(low=0.0, high=1.0)


@dataclass(frozen=True)
class Row:
    """A line of the table: defense, network, and the two attacks."""

    name: str
    network: str
    scene: Scene
    plain: attacks.Attack
    informed: attacks.Attack | None
    instead: str = "none"
    """What the table says where there is no informed attack."""


def row(
    name: str,
    defense: Any,
    informed: attacks.Attack | None,
    *,
    plain: attacks.Attack = T2,
    network: str = "128–64",
    instead: str = "none",
    **scene: Any,
) -> Row:
    """One line; `defense` is None where it is part of the model."""
    acting = () if defense is None else (defense,)
    return Row(name, network, Scene(defenses=acting, **scene), plain, informed, instead)


def gauss(multiplier: float) -> GaussianNoise:
    """Clipped to length 1."""
    return GaussianNoise(clip_norm=1.0, noise_multiplier=multiplier)


def laplace(multiplier: float) -> LaplaceNoise:
    """Clipped to an absolute sum of 1000, above that of these gradients."""
    return LaplaceNoise(l1_clip_norm=1000.0, noise_multiplier=multiplier)


def soteria(layer: str) -> Soteria:
    """As its paper sets it."""
    return Soteria(layer=layer, pruned_fraction=0.4)


def levels(count: int) -> StochasticQuantization:
    """Random rounding."""
    return StochasticQuantization(levels=count)


def pruning() -> list[Row]:
    """Top-k and random masks."""
    half = RandomPruning(kept_fraction=0.005, error_feedback=False)
    wide: dict[str, Any] = {"model": WIDE, "network": "128–128"}
    return [
        row("top 10 % of the gradient", TopK(kept_fraction=0.1), PrunedInversion(), **wide),
        row("top 2 %", TopK(kept_fraction=0.02), PrunedInversion(), **wide),
        row("top 1 %", TopK(kept_fraction=0.01), PrunedInversion(), **wide),
        row("top 2 %, narrower network", TopK(kept_fraction=0.02), PrunedInversion()),
        row("random 10 %", RandomPruning(kept_fraction=0.1), PrunedInversion(), **wide),
        row("random 2 %", RandomPruning(kept_fraction=0.02), PrunedInversion(), **wide),
        row("random 0.5 %", half, PrunedInversion(), **wide),
        row("random 0.5 %, 16 rounds", half, PrunedInversion(), rounds=16, **wide),
        row(
            "top 10 %, LeNet",
            TopK(kept_fraction=0.1),
            LeaveOut(),
            plain=DLG,
            network="LeNet",
            model=LENET,
            dtype=torch.float64,
        ),
    ]


def scaling() -> list[Row]:
    """Clipping."""
    by_sample = PerSampleClip(clip_norm=0.05, denominator=8)
    by_layer = LayerClip(clip_norm=0.05)
    return [
        row("clipping", Clip(clip_norm=0.05), ClippedInversion()),
        row("clipping of each layer", by_layer, ClippedInversion()),
        row("clipping of each layer, DLG", by_layer, ClippedInversion(), plain=DLG),
        row("clipping of each layer, batch of 8", by_layer, ClippedInversion(), plain=PEEL, batch=8),
        row("clipping of each sample, batch of 8", by_sample, ClippedInversion(), plain=PEEL, batch=8),
    ]


def noise() -> list[Row]:
    """Gaussian, Laplace, random rounding."""
    tanh: dict[str, Any] = {"plain": DLG, "network": "LeNet, tanh", "model": TANH}
    ml, rounding = NoisyInversion(), QuantizedInversion()
    return [
        row("Gaussian noise, multiplier 0.001", gauss(0.001), ml),
        row("Gaussian noise, 0.01", gauss(0.01), ml),
        row("Gaussian noise, 0.01, 8 rounds", gauss(0.01), ml, rounds=8),
        row("Gaussian noise, 0.1", gauss(0.1), ml),
        row("Gaussian noise, 0.1, 8 rounds", gauss(0.1), ml, rounds=8),
        row("Gaussian noise, 0.8", gauss(0.8), ml),
        row("Gaussian noise, 0.8, 8 rounds", gauss(0.8), ml, rounds=8),
        row("Gaussian noise, 0.001, LeNet", gauss(0.001), NoisySearch(), **tanh),
        row("Gaussian noise, 0.01, LeNet", gauss(0.01), NoisySearch(), **tanh),
        row("Laplace noise, scale 0.001", laplace(1e-6), ml),
        row("Laplace noise, scale 0.001, DLG", laplace(1e-6), ml, plain=DLG),
        row("Laplace noise, scale 0.01", laplace(1e-5), ml),
        row("quantization, 256 levels", levels(256), rounding),
        row("quantization, 16 levels", levels(16), rounding),
        row("quantization, 16 levels, 8 rounds", levels(16), rounding, rounds=8),
        row("quantization, 4 levels, 8 rounds", levels(4), rounding, rounds=8),
        row("quantization, 256 levels, LeNet", levels(256), NoisySearch(), **tanh),
    ]


def signs() -> list[Row]:
    """One bit a number, with the known range of pixels."""
    wide: dict[str, Any] = {"model": network(512, 64), "network": "512–64"}
    return [
        row("signs, 512 neurons", SignSGD(), RANGED, **wide),
        row("signs, 128 neurons", SignSGD(), RANGED),
        row("signs, 512 neurons, 6 rounds", SignSGD(), RANGED, rounds=6, **wide),
    ]


def partly_false() -> list[Row]:
    """Soteria, PRECODE, dropout, CENSOR."""
    conv: dict[str, Any] = {"plain": DLG, "network": "LeNet", "model": LENET, "dtype": torch.float64}
    eight: dict[str, Any] = {"plain": PEEL, "batch": 8}
    inside: dict[str, Any] = {"network": "128–64, and inside"}
    return [
        row("Soteria at the features of a LeNet", soteria("7"), LeaveOut(), **conv),
        row("Soteria at the pixels", soteria("1"), LeaveOut()),
        row("Soteria at the last layer, batch of 8", soteria("5"), LeaveOut(), **eight),
        row("Soteria at the second layer, batch of 8", soteria("3"), LeaveOut(), **eight),
        row("PRECODE", None, LeaveOut(), model=PRECODE, **inside),
        row("PRECODE, batch of 8", None, LeaveOut(), model=PRECODE, **inside, **eight),
        row("dropout, one half", None, None, model=DROPOUT, instead="not needed", **inside),
        row("CENSOR", Censor(), None),
    ]


def mixtures() -> list[Row]:
    """Six digits of different classes, mixed."""
    six: dict[str, Any] = {"plain": PEEL, "batch": 6, "dtype": torch.float64, "one_of_each": True}
    return [
        row("mixup of 6", MixUp(num_classes=10), MixtureInversion(), **six),
        row("InstaHide of 6", InstaHide(num_classes=10), MixtureInversion(), **six),
    ]


ROWS = [*pruning(), *scaling(), *noise(), *signs(), *partly_false(), *mixtures()]
