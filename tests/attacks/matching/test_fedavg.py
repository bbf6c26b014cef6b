"""Inverting federated averaging: a plain reading of the paper as the oracle, theorems, limits, refusals."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedpriv
from attacks import NotIdentifiable
from attacks.matching.fedavg import FedAvgInversion
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.mini_batches import MiniBatches, draw_order, likely_orders, num_passes
from attacks.matching.objectives import Cosine
from attacks.matching.priors import TotalVariation
from attacks.matching.problem import Problem
from attacks.matching.set_consistency import SetConsistency, match_and_average
from attacks.matching.unknowns import Energy, Unknowns
from attacks.threads import one_thread
from fedpriv import Knowledge, Observation
from fedpriv.victims import conv_small, lenet_dlg
from tests.attacks.scenes import normal, observe, same, seeded, snapshot


def drawn(model, seed):
    """PyTorch's default distribution, from a seed."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = layer.weight[0].numel() ** -0.5
                for parameter in layer.parameters():
                    parameter.copy_((2 * torch.rand(parameter.shape, generator=seeded(seed)) - 1).mul(bound))
                    seed += 1
    return model


def small_net(shape, classes=4, seed=1):
    """Two strided convolutions and a head of two linear layers."""
    wide = 16 * -(-shape[1] // 4) * -(-shape[2] // 4)
    model = nn.Sequential(
        *(nn.Conv2d(shape[0], 8, 5, stride=2, padding=2), nn.GELU()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GELU()),
        *(nn.Flatten(), nn.Linear(wide, 32), nn.GELU(), nn.Linear(32, classes)),
    )
    return drawn(model, 100 * seed)


def trained(model, x, y, order, *, rate, batch_size, steps, loss_fn=F.cross_entropy):
    """A client with a known order: what it returns, as the server sees it, who does not know the order."""
    state = {n: p.detach().clone() for n, p in model.named_parameters()}
    batches = [batch for one_pass in order for batch in torch.as_tensor(one_pass).split(batch_size)][:steps]
    for rows in batches:
        leaves = {n: t.requires_grad_() for n, t in state.items()}
        loss = loss_fn(torch.func.functional_call(model, leaves, (x[rows],)), y[rows])
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        state = {n: (t - rate * g).detach() for (n, t), g in zip(leaves.items(), slopes, strict=True)}
    known = Knowledge(
        num_samples=len(x),
        input_shape=tuple(x.shape[1:]),
        learning_rate=rate,
        local_steps=len(batches),
        batch_size=batch_size,
    )
    return Observation(model, fedpriv.Update(kind="parameters", tensors=state), loss_fn, known)


def scene(shape=(1, 8, 8), *, seed, n=4, batch_size=2, passes=2, rate=0.1, dtype=torch.float32, model=None):
    """Smooth images with labels, trained in a random order."""
    coarse = torch.rand(n, shape[0], 3, 3, generator=seeded(seed))
    x = F.interpolate(coarse, size=shape[1:], mode="bilinear", align_corners=True).to(dtype)
    y = torch.randint(4, (n,), generator=seeded(seed + 1))
    model = (model or small_net(shape, seed=seed)).to(dtype)
    order = draw_order(passes, n, seeded(seed + 2))
    steps = passes * -(-n // batch_size)
    return trained(model, x, y, order, rate=rate, batch_size=batch_size, steps=steps), x, y, order


def plain_objective(observation, images, labels, order, features, *, smoothness, consistency):
    """Dimitrov et al. 2022, algorithm 1: the client simulated on the images of every epoch."""
    known = observation.knowledge
    weights = {n: observation.state[n].clone().requires_grad_() for n in observation.update.tensors}
    start, taken = dict(weights), 0
    for epoch, epoch_order in enumerate(order):
        for batch in epoch_order.split(known.batch_size):
            if taken == known.local_steps:
                break
            outputs = torch.func.functional_call(observation.model, weights, (images[epoch][batch],))
            loss = observation.loss_fn(outputs, labels[batch])
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {
                n: w - known.learning_rate * g for (n, w), g in zip(weights.items(), slopes, strict=True)
            }
            taken += 1
    simulated = torch.cat([(start[n] - weights[n]).reshape(-1) for n in weights])
    seen = torch.cat([(observation.state[n] - t).reshape(-1) for n, t in observation.update.tensors.items()])
    value = 1 - torch.cosine_similarity(simulated, seen, dim=0)
    flat = images.flatten(0, 1)
    vertical = (flat[:, :, 1:] - flat[:, :, :-1]).abs().mean()
    horizontal = (flat[..., 1:] - flat[..., :-1]).abs().mean()
    pairs = []
    for one in images:
        for two in images:
            g_one, g_two = (F.conv2d(part, features, padding=1).amax(0) for part in (one, two))
            pairs.append((g_one - g_two).square().mean())
    return value + smoothness * (vertical + horizontal) + consistency * torch.stack(pairs).mean()


@pytest.mark.parametrize(("n", "batch_size", "passes"), [(4, 2, 3), (5, 2, 2)])
def test_value_and_slope_are_those_of_the_plain_loop(n, batch_size, passes):
    seen, _, y, _ = scene((2, 6, 8), seed=301, n=n, batch_size=batch_size, passes=passes, dtype=torch.float64)
    attack = FedAvgInversion(smoothness=0.02, consistency=0.7)
    order = draw_order(passes, n, seeded(3))
    energy = attack.energy(Problem.of(seen), y, order, seeded(3))
    points = torch.rand(1, energy.unknowns.size, generator=seeded(4), dtype=torch.float64).requires_grad_()
    fast = energy(points)
    images = points.detach().reshape(passes, n, 2, 6, 8).requires_grad_()
    features = energy.priors[1][1].weights
    plain = plain_objective(seen, images, y, order, features, smoothness=0.02, consistency=0.7)
    torch.testing.assert_close(fast[0], plain, rtol=1e-10, atol=1e-12)
    slope = torch.autograd.grad(fast.sum(), points)[0].reshape(images.shape)
    torch.testing.assert_close(slope, torch.autograd.grad(plain, images)[0], rtol=1e-8, atol=1e-12)


def test_one_step_on_all_data_is_plain_gradient_matching():
    seen, x, y, _ = scene(seed=311, batch_size=4, passes=1, dtype=torch.float64)
    problem = Problem.of(seen)
    replayed = FedAvgInversion().energy(problem, y, torch.arange(4)[None], seeded(1))
    unknowns = Unknowns(num_samples=4, input_shape=(1, 8, 8), targets=y)
    plain = Energy(problem=problem, unknowns=unknowns, objective=Cosine(), priors=((0.01, TotalVariation()),))
    points = unknowns.draw(2, seeded(5), like=x)
    torch.testing.assert_close(replayed(points), plain(points), rtol=1e-12, atol=0)
    one = FedAvgInversion(steps=15).run((seen,), generator=seeded(2), deadline=float("inf"))
    two = InvertingGradients(steps=15).run((seen,), generator=seeded(2), deadline=float("inf"))
    assert torch.equal(one.inputs, two.inputs)
    assert torch.equal(one.targets, two.targets)


@pytest.mark.parametrize(
    ("n", "batch_size", "passes", "steps"), [(4, 2, 2, 4), (5, 2, 2, 6), (5, 2, 2, 4), (3, 5, 3, 3)]
)
def test_the_truth_in_the_true_order_explains_everything(n, batch_size, passes, steps):
    x, y = normal(n, 1, 8, 8, seed=321, dtype=torch.float64), torch.arange(n) % 4
    model, order = small_net((1, 8, 8)).double(), draw_order(passes, n, seeded(9))
    seen = trained(model, x, y, order, rate=0.3, batch_size=batch_size, steps=steps)
    assert num_passes(seen.knowledge, n) == passes
    for own_images, inputs in ((False, x), (True, x.repeat(passes, 1, 1, 1))):
        problem = MiniBatches.guessed(Problem.of(seen), order, own_images=own_images)
        replayed = problem.gradients(inputs, y.repeat(len(inputs) // n))
        for candidate, observed in zip(replayed, problem.observed, strict=True):
            torch.testing.assert_close(candidate, observed, rtol=1e-8, atol=1e-10)
        wrong = MiniBatches.guessed(Problem.of(seen), order.flip(1), own_images=own_images)
        if n > batch_size:
            other = wrong.gradients(inputs, y.repeat(len(inputs) // n))
            assert not torch.allclose(other[0], wrong.observed[0], rtol=1e-4)


def test_with_one_label_no_order_is_lost_to_the_images_of_the_passes():
    """Images put where the client had them: no misfit and one set, whatever order is guessed."""
    x, y = normal(6, 1, 8, 8, seed=331, dtype=torch.float64), torch.ones(6, dtype=torch.int64)
    client, guess = draw_order(3, 6, seeded(10)), draw_order(3, 6, seeded(11))
    seen = trained(small_net((1, 8, 8)).double(), x, y, client, rate=0.3, batch_size=2, steps=9)
    problem = MiniBatches.guessed(Problem.of(seen), guess, own_images=True)
    images = torch.empty(3, 6, 1, 8, 8, dtype=torch.float64)
    for one_pass in range(3):
        images[one_pass][guess[one_pass]] = x[client[one_pass]]
    flat = images.flatten(0, 1)
    misfit = Cosine()([g[None] for g in problem.gradients(flat, y.repeat(3))], problem.observed)
    together = SetConsistency.draw(3, (1, 8, 8), seeded(12), like=x)
    assert float(misfit) < 1e-12
    assert float(together(flat[None])) < 1e-12
    average = match_and_average(images, y)
    assert float(torch.cdist(average.flatten(1), x.flatten(1)).amin(0).max()) < 1e-6


@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 4, 6), (7,), (2, 9)])
def test_the_distance_of_sets_ignores_the_order_and_nothing_else(shape):
    x = normal(5, *shape, seed=341, dtype=torch.float64)
    together = SetConsistency.draw(2, shape, seeded(1), like=x)
    shuffled = torch.cat([x, x[torch.randperm(5, generator=seeded(2))]])
    moved = torch.cat([x, x + 0.1 * normal(5, *shape, seed=342, dtype=torch.float64)])
    values = together(torch.stack([shuffled, moved]))
    assert float(values[0]) < 1e-25 < 1e-6 < float(values[1])


def test_images_are_matched_within_their_label_only():
    one = torch.tensor([[0.0], [1.0], [2.0]])
    two = torch.tensor([[1.1], [0.1], [2.2]])
    assert match_and_average(torch.stack([one, two]), torch.tensor([0, 0, 1])).flatten().tolist() == (
        pytest.approx([0.05, 1.05, 2.1])
    )
    assert match_and_average(torch.stack([one, two]), torch.tensor([0, 1, 2])).flatten().tolist() == (
        pytest.approx([0.55, 0.55, 2.1])
    )


def test_labels_alone_in_a_smaller_batch_are_noticed():
    """Three samples in batches of two: who trains alone weighs twice as much in the last bias."""
    for seed in (346, 347, 348):
        seen, _, _, _ = scene(seed=seed, n=3, batch_size=2, passes=1, rate=0.01)
        x, y = torch.rand(3, 1, 8, 8, generator=seeded(seed)), torch.tensor([0, 1, 2])
        order = torch.tensor([[2, 0, 1]])
        seen = trained(seen.model, x, y, order, rate=0.01, batch_size=2, steps=2)
        (likely,) = likely_orders(Problem.of(seen), y, seeded(seed), count=1)
        assert int(likely[0, 2]) == 1
        even = trained(seen.model, x[:2], y[:2], order[:, 1:] % 2, rate=0.01, batch_size=1, steps=2)
        assert torch.equal(
            likely_orders(Problem.of(even), y[:2], seeded(3), count=1)[0], draw_order(1, 2, seeded(3))
        )


def as_one_gradient(seen):
    """The same update, taken for one large step."""
    known = seen.knowledge
    one = replace(
        known, local_steps=1, batch_size=None, learning_rate=known.learning_rate * known.local_steps
    )
    return Observation(seen.model, seen.update, seen.loss_fn, one, state=seen.state)


@one_thread()
def test_replay_beats_the_update_taken_for_one_gradient():
    better = []
    for seed in (351, 352, 353):
        seen, x, y, _ = scene((1, 10, 10), seed=seed, n=3, batch_size=2, passes=2, rate=0.3)
        settings = {"starts": 1, "steps": 60, "scale": 0.1, "smoothness": 0.003}
        psnr = []
        for attack, evidence in (
            (FedAvgInversion(**settings), seen),
            (InvertingGradients(**settings), as_one_gradient(seen)),
        ):
            found = attack.run((evidence,), generator=seeded(seed), deadline=float("inf"))
            psnr.append(float(fedpriv.lab.score(found, x, y, data_range=1.0).psnr.mean()))
        better.append(psnr[0] - psnr[1])
    assert sum(better) / len(better) > 2, better


@pytest.mark.parametrize("own_images", [True, False])
@pytest.mark.parametrize(
    "model",
    [
        conv_small((3, 8, 8), 4, width=4),
        lenet_dlg((3, 8, 8), 4),
        fedpriv.models.mlp([192, 16, 4], activation=nn.ReLU, generator=seeded(1)),
    ],
    ids=["convolutions", "LeNet", "MLP"],
)
def test_every_kind_of_network_and_color(model, own_images):
    seen, x, _, _ = scene((3, 8, 8), seed=361, n=3, rate=0.01, model=model)
    before, state = snapshot(seen), torch.random.get_rng_state()
    attack = FedAvgInversion(steps=4, own_images=own_images)
    one, two = (attack(seen, generator=seeded(5)) for _ in range(2))
    assert one.inputs.shape == x.shape
    assert torch.equal(one.inputs, two.inputs)
    assert torch.equal(one.targets, two.targets)
    assert not one.certified.any()  # nobody can prove a guess of the order
    assert "order that the server does not know" in one.notes[-1]
    assert same(before, snapshot(seen))
    assert torch.equal(state, torch.random.get_rng_state())


def test_full_batch_steps_are_replayed_and_graded():
    seen, x, y, _ = scene(seed=371, n=2, batch_size=2, passes=3, rate=0.3)
    found = FedAvgInversion(starts=1, steps=100, scale=0.1, smoothness=0.001)(seen)
    score = fedpriv.lab.score(found, x, y, data_range=1.0)
    assert found.residual < 0.1
    assert bool(score.target_correct.all())
    assert float(score.psnr.mean()) > 20


def test_the_time_budget_is_kept():
    seen, _, _, _ = scene((3, 24, 24), seed=381, n=4, passes=3, model=small_net((3, 24, 24)))
    begun = time.perf_counter()
    found = FedAvgInversion(steps=10**6)(seen, time_budget=1.0)
    assert time.perf_counter() - begun < 4
    assert found.inputs.shape == (4, 3, 24, 24)


def refused(observation, message, attack=FedAvgInversion):
    with pytest.raises(NotIdentifiable, match=message):
        attack()(observation)


def knowing(seen, **changes):
    known = replace(seen.knowledge, **changes)
    return Observation(seen.model, seen.update, seen.loss_fn, known, state=seen.state)


def test_refusals_are_sentences():
    seen, x, y, _ = scene(seed=391)
    model = seen.model
    refused(observe(model, F.cross_entropy, x, y, seen.knowledge), "one gradient and holds no local training")
    refused(knowing(seen, learning_rate=None), "only with the learning rate; set Knowledge.learning_rate")
    refused(knowing(seen, local_steps=1, batch_size=None), "a single step on all of its data")
    refused(knowing(seen, num_samples=None), "number of samples is unknown.*; set Knowledge.num_samples")
    refused(knowing(seen, input_shape=None), "set Knowledge.input_shape")
    refused(knowing(seen, input_shape=(5, 5)), r"cannot be replayed on inputs of shape \(5, 5\)")
    names = list(seen.update.tensors)
    unchanged = fedpriv.Update(kind="parameters", tensors={n: seen.state[n] for n in names})
    refused(
        Observation(model, unchanged, F.cross_entropy, seen.knowledge), "zero up to rounding: nothing of the"
    )
    mean = fedpriv.Update(
        kind="parameters", tensors=seen.update.tensors, sender="aggregator", contributors=("bob", "alice")
    )
    refused(Observation(model, mean, F.cross_entropy, seen.knowledge), "average of 2 clients' local training")
    layers = list(model.children())
    dropping = nn.Sequential(*layers[:-1], nn.Dropout(0.5), layers[-1])
    order = draw_order(2, 4, seeded(1))
    with torch.random.fork_rng():
        random = trained(dropping, x, y, order, rate=0.1, batch_size=2, steps=4)
    refused(random, "layer Dropout '7' is active and draws")
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    refused(trained(linear, x, y, order, rate=0.1, batch_size=2, steps=4), "one linear layer")
    squared = trained(model, x, normal(4, 4), order, rate=0.1, batch_size=2, steps=4, loss_fn=F.mse_loss)
    refused(squared, "the loss takes no class labels")


def test_settings_out_of_range_are_refused():
    for setting in ({"starts": 0}, {"steps": 0}, {"rate": 0.0}, {"smoothness": -1.0}, {"trial": -0.1}):
        with pytest.raises(ValueError, match="must be"):
            FedAvgInversion(**setting)
    problem = Problem.of(scene(seed=392)[0])
    with pytest.raises(ValueError, match=r"order must have shape \(2, 4\)"):
        MiniBatches.guessed(problem, draw_order(3, 4, seeded(0)), own_images=True)
