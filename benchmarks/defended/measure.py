"""Two attackers on the same evidence, and the other measurements around them.

Decibels are those of the worst sample, and None stands for a refusal. Nothing but a score sees the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

import attacks
import fedpriv
from attacks.adaptive import Collusion, Differencing, NoisySearch, PassedOn, SignInversion
from attacks.matching.dlg import DLG
from fedpriv.defenses import Averaging, GaussianNoise, Krum, SignSGD

from .scenes import MLP, SEEDS, Data, Scene, answers, digits, ignorant, lenet, network, seeded

BUDGET = 120.0
"""Seconds at most, so that steps and not the machine end a search."""
DLG_ONCE = DLG(starts=1, steps=150)


def graded(attack: attacks.Attack, seen: list[fedpriv.Observation], truth: Data) -> tuple[float | None, bool]:
    """Of the worst sample the decibels, None for a refusal; and whether all classes are right."""
    try:
        found = attack(seen, time_budget=BUDGET)
    except attacks.NotIdentifiable:
        return None, False
    x, y = truth
    named = found.targets is not None and not found.targets.is_floating_point()  # soft labels name no class
    score = fedpriv.lab.score(found, x, y if named else None, data_range=1.0)
    right = score.target_correct is not None and bool(score.target_correct.all())
    return float(score.psnr.min()), right


def both(scene: Scene, plain: attacks.Attack, informed: attacks.Attack | None) -> dict[str, Any]:
    """The attack that ignores the defense and the one that knows it, on the same evidence of every seed."""
    values: dict[str, Any] = {}
    for who, attack in (("plain", plain), ("informed", informed)):
        if attack is None:
            continue
        grades, slowest = [], 0.0
        for seed in SEEDS:
            seen, truth = scene.observe(seed)
            start = time.process_time()
            grades.append(graded(attack, ignorant(seen) if who == "plain" else seen, truth))
            slowest = max(slowest, time.process_time() - start)
        values[f"{who}_psnr"] = [psnr for psnr, _ in grades]
        values[f"{who}_right"] = sum(right for _, right in grades)
        values[f"{who}_slowest_seconds"] = slowest
    return values


def anyway(scene: Scene) -> dict[str, Any]:
    """DLG on what arrived, taken for a gradient although it refuses that: a refusal protects nobody."""
    found = []
    for seed in SEEDS:
        seen, (x, _) = scene.observe(seed)
        deadline = time.perf_counter() + BUDGET
        claim = DLG_ONCE.run(tuple(ignorant(seen)), generator=seeded(0), deadline=deadline)
        found.append(float(fedpriv.lab.score(claim.inputs, x, data_range=1.0).psnr))
    return {"psnr": found}


def limit(scene: Scene, clip_norm: float) -> dict[str, Any]:
    """The mean squared error below which no unbiased attack comes, in decibels."""
    found = []
    for seed in SEEDS:
        seen, (x, y) = scene.observe(seed)
        std = seen[0].knowledge.noise_std
        bound = fedpriv.privacy.cramer_rao_bound(seen, x, y, noise_std=std, clip_norm=clip_norm)
        found.append(-10 * math.log10(bound))
    return {"psnr": found}


def gray(chosen: torch.Tensor, known: torch.Tensor) -> dict[str, Any]:
    """What a picture of the mean brightness of all `known` is worth: the median over those `chosen`."""
    flat = torch.full_like(chosen, float(known.mean()))
    return {"psnr": float(fedpriv.lab.psnr(flat, chosen, data_range=1.0).median())}


def unranged_signs(width: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Signs where nobody declares the range of the pixels."""
    scene = Scene(defenses=(SignSGD(),), model=network(width, 64))
    return {"psnr": [graded(SignInversion(), *scene.observe(seed))[0] for seed in seeds]}


def sign_of_faces(width: int, count: int) -> dict[str, Any]:
    """Faces of 625 pixels behind signs, with the known range, and gray pictures beside them."""
    scene = Scene(defenses=(SignSGD(),), model=network(width, 64, pixels=625))
    attack, found, guesses = SignInversion(low=0.0, high=1.0), [], []
    for seed in SEEDS[:count]:
        order = torch.randperm(len(faces := fedpriv.data.faces()), generator=seeded(seed))
        x = faces[order[:1]]
        found.append(graded(attack, *scene.observe(seed, (x, torch.tensor([0]))))[0])
        guesses.append(gray(x, faces)["psnr"])
    return {"psnr": found, "gray_psnr": guesses}


def single_starts(starts: int) -> dict[str, Any]:
    """From how many single random starts the most likely image behind convolutions is found."""
    noise = GaussianNoise(clip_norm=1.0, noise_multiplier=1e-3)
    scene, found = Scene(defenses=(noise,), model=lenet(nn.Tanh)), 0
    for seed in SEEDS:
        seen, (x, _) = scene.observe(seed)
        for start in range(starts):
            answer = NoisySearch(starts=1)(seen, generator=seeded(start), time_budget=BUDGET)
            found += float(fedpriv.lab.score(answer, x, data_range=1.0).psnr) > 30
    return {"found": found, "starts": starts * len(SEEDS)}


def sums() -> dict[str, Any]:
    """One of five clients out of sums: one that joins, one that all others betray, one that Krum chose."""
    values: dict[str, list[float | None]] = {"differencing_psnr": [], "collusion_psnr": [], "krum_psnr": []}
    for seed in SEEDS:
        x, y = digits(20, seed)
        people = {name: (x[k::5], y[k::5]) for k, name in enumerate(("ann", "bob", "cem", "dan", "eve"))}
        model = MLP(seeded(seed + 500))
        ask = partial(answers, model, seed=seed, sender="aggregator")
        everybody = ask(people, [Averaging()])
        others = {name: data for name, data in people.items() if name != "bob"}
        own = {n: answers(model, {n: d}, [], seed, sender=n)[0].update.tensors for n, d in others.items()}
        for name, attack, seen in (
            ("differencing", Differencing(), everybody + ask(others, [Averaging()])),
            ("collusion", Collusion(own=own), everybody),
        ):
            psnr, right = graded(attack, seen, people["bob"])
            values[f"{name}_psnr"].append(psnr if right else None)
        passed = [graded(PassedOn(), ask(people, [Krum()]), data)[0] for data in people.values()]
        values["krum_psnr"].append(max((p for p in passed if p is not None), default=None))
    return values
