"""Before any search: whether this model can, with any data at all, have produced this update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.matching.problem import Problem
from attacks.matching.unknown import gradient_rank, linear_gradients
from attacks.replay import REPLAY_ERRORS, observed_vector, own_randomness, parameter_name, sent_state
from attacks.rounding import stored_rounding
from fedpriv.wire import Observation


def why_no_match(observation: Observation) -> str | None:
    """The reason why no search for a matching batch makes sense, or None.

    It names what disagrees: an update that is zero, local training that cannot be replayed, a layer that
    draws random numbers, inputs that the model refuses, a parameter whose gradient these data cannot have.
    """
    knowledge = observation.knowledge
    observed = observed_vector(observation)
    if float(observed.norm()) <= 4 * stored_rounding(observation):
        return "the update is zero up to rounding: nothing of the data crossed the wire"
    if observation.update.kind == "parameters" and knowledge.learning_rate is None:
        return "returned parameters can be replayed only with the learning rate; set Knowledge.learning_rate"
    if knowledge.batch_size is not None:
        return "the client drew mini-batches in an order that the server does not know"
    try:
        problem = Problem.of(observation)
    except ValueError as refusal:
        return str(refusal)
    return why_not_linear(observation) or why_not_probed(problem) or _why_not_rank(problem)


def why_not_linear(observation: Observation) -> str | None:
    """A single linear layer: refuse, because many batches have the same gradient."""
    leaves = [m for m in observation.model.modules() if next(m.parameters(recurse=False), None) is not None]
    if len(leaves) == 1 and isinstance(leaves[0], nn.Linear):
        return (
            "the model is one linear layer, whose gradients determine moments of the data only; "
            "attacks.MomentInversion says what follows from them"
        )
    return None


def why_not_probed(problem: Problem) -> str | None:
    """Run the model once on random inputs and look at what comes back."""
    shape = (problem.num_samples, *problem.input_shape)
    probe = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probe = probe.to(problem.device, problem.dtype)
    if any(isinstance(m, nn.Embedding) for m in problem.observation.model.modules()):
        return "the model reads whole numbers (tokens), which have no gradient; attacks on tokens apply"
    try:
        random_layer = drawing_layer(problem, probe)
        if random_layer is not None:
            return (
                f"layer {random_layer} is active and draws random numbers that the server does not know, "
                f"so the update cannot be replayed"
            )
        with own_randomness():
            targets = problem.some_targets(probe)
            probe.requires_grad_()
            gradients = problem.gradients(probe, targets)
            total = torch.stack([g.square().sum() for g in gradients]).sum()
            slope = torch.autograd.grad(total, probe, allow_unused=True)[0]
    except REPLAY_ERRORS as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        return f"the model cannot be replayed on inputs of shape {tuple(problem.input_shape)}: {line[:200]}"
    if slope is None or not bool(torch.isfinite(slope).all()):
        return "the gradient of the loss does not change with the inputs, or cannot be differentiated again"
    for name, candidate, observed in zip(problem.names, gradients, problem.observed, strict=True):
        if not bool(candidate.any()) and bool(observed.any()):
            return f"the update of {name!r} is not zero, but the loss does not depend on that parameter"
    return None


def _why_not_rank(problem: Problem) -> str | None:
    """A linear layer's gradient is a sum of as many products as there are samples."""
    steps = problem.observation.knowledge.local_steps
    if problem.observation.knowledge.noise_std > 0 or steps > 1:
        return None
    for name, weight in linear_gradients(problem.observation).items():
        rank, _ = gradient_rank(problem.observation, weight)
        if rank > problem.num_samples:
            return (
                f"the gradient of {parameter_name(name, 'weight')!r} has rank {rank}, but "
                f"{problem.num_samples} sample(s) can only give that rank; correct Knowledge.num_samples, or "
                f"the update is not from this model"
            )
    return None


def drawing_layer(problem: Problem, inputs: Tensor) -> str | None:
    """The first layer whose output on the same inputs changes with the seed, as dropout's does.

    Returns
    -------
    str or None
        Its kind and name.
    """
    model = problem.observation.model
    leaves = {n: m for n, m in model.named_modules() if not list(m.children())}

    def outputs(seed: int) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def watch(name: str) -> Callable[[nn.Module, object, object], None]:
            def remember(_: nn.Module, __: object, out: object) -> None:
                if isinstance(out, Tensor):
                    seen.setdefault(name, out.detach().clone())

            return remember

        hooks = [m.register_forward_hook(watch(n)) for n, m in leaves.items()]
        try:
            with torch.no_grad(), own_randomness():
                torch.default_generator.manual_seed(seed)
                state = sent_state(problem.observation, problem.dtype)
                seen[""] = functional_call(model, state, (inputs,)).detach()
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    one, two = outputs(1), outputs(2)
    for name, output in one.items():
        if not torch.equal(output, two[name]) and not bool(output.isnan().any()):
            return f"{type(leaves[name]).__name__} {name!r}" if name else "of the model"
    return None
