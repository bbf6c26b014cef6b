"""The equation to solve: which batch has this gradient, as a function of the candidate batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from attacks.matching.one_pass import one_pass_agrees
from attacks.matching.unknown import input_shape_of, num_samples_of
from attacks.replay import (
    REPLAY_ERRORS,
    State,
    compared_names,
    observed_vector,
    pooling_factor,
    sent_state,
)
from fedpriv.wire import Observation

SMALL_MODEL = 500_000
"""Up to this many parameters a float64 update is matched in float64."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """One observation as a function from candidate batches to gradients; make it with `Problem.of`.

    Parameters
    ----------
    observation : Observation
    num_samples : int
    input_shape : tuple of int
        Of one sample.
    names : tuple of str
        The parameters whose gradients are compared, in the model's order.
    observed : tuple of Tensor
        Their gradients: for returned parameters the sum of the gradients of all local steps.
    dtype : torch.dtype
        In which the candidates are computed.
    """

    observation: Observation
    num_samples: int
    input_shape: tuple[int, ...]
    names: tuple[str, ...]
    observed: tuple[Tensor, ...]
    dtype: torch.dtype

    @classmethod
    def of(
        cls,
        observation: Observation,
        *,
        num_samples: int | None = None,
        input_shape: tuple[int, ...] | None = None,
        dtype: torch.dtype | None = None,
        keep: Callable[[str], bool] | None = None,
    ) -> Problem:
        """Make the problem of an observation.

        Parameters
        ----------
        observation : Observation
            One gradient, or parameters that were returned after full-batch steps.
        num_samples : int, optional
            Told, else as `attacks.matching.unknown.num_samples_of` finds it.
        input_shape : tuple of int, optional
            Told, else as `attacks.matching.unknown.input_shape_of` finds it.
        dtype : torch.dtype, optional
            float32 if not given; float64 where the update is float64 and the model small.
        keep : callable, optional
            ``keep(parameter name)`` says whether its gradient is compared; all if not given.

        Raises
        ------
        ValueError
            If the number of samples or the shape of the inputs is unknown.

        Examples
        --------
        >>> import fedpriv
        >>> model, loss = torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy
        >>> x, y = torch.ones(1, 3), torch.tensor([1])
        >>> gradient = torch.autograd.grad(loss(model(x), y), model.parameters())
        >>> problem = Problem.of(fedpriv.Observation(model, gradient, loss), num_samples=1)
        >>> [bool(torch.allclose(g, o)) for g, o in zip(problem.gradients(x, y), problem.observed)]
        [True, True]
        """
        names = tuple(n for n in compared_names(observation) if keep is None or keep(n))
        if not names:
            raise ValueError("no parameter is left to compare; keep at least one")
        if dtype is None:
            dtype = _precision(observation)
        every = compared_names(observation)
        shapes = {n: observation.state[n].shape for n in every}
        parts = observed_vector(observation, dtype).split([shapes[n].numel() for n in every])
        named = {n: part.reshape(shapes[n]) for n, part in zip(every, parts, strict=True)}
        return cls(
            observation=observation,
            num_samples=num_samples or num_samples_of(observation),
            input_shape=tuple(input_shape or input_shape_of(observation)),
            names=names,
            observed=tuple(named[n] for n in names),
            dtype=dtype,
        )

    @property
    def device(self) -> torch.device:
        """Where the observed gradient lies."""
        return self.observed[0].device

    @property
    def norm(self) -> float:
        """Length of the observed gradient."""
        return float(torch.stack([o.double().norm() for o in self.observed]).norm())

    @cached_property
    def state(self) -> State:
        """Parameters and buffers as they were sent, in `dtype`."""
        return sent_state(self.observation, self.dtype)

    @cached_property
    def moving(self) -> tuple[str, ...]:
        """The parameters whose gradients are computed: in local training, all that the client trained."""
        return self.names if self._steps == 1 else tuple(compared_names(self.observation))

    @property
    def _steps(self) -> int:
        return 1 if self.observation.update.kind == "gradient" else self.observation.knowledge.local_steps

    def loss(self, parameters: State, inputs: Tensor, targets: Tensor) -> Tensor:
        """The client's loss at other values of some of the parameters.

        Buffers are copied first, because batch norm in training mode writes into them.
        """
        buffers = {n: t.clone() for n, t in self.state.items() if not t.requires_grad and n not in parameters}
        outputs = functional_call(self.observation.model, {**buffers, **parameters}, (inputs,))
        return self.observation.loss_fn(outputs, targets)

    def gradients(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        """The gradients that the client would have sent, had these been its samples.

        Differentiable in inputs and in real or soft targets.

        Parameters
        ----------
        inputs : Tensor of shape (n, *input_shape)
        targets : Tensor of shape (n, ...)
            Class labels, or whatever else the loss takes.

        Returns
        -------
        list of Tensor
            In the order of `names`.
        """
        differentiable = torch.is_grad_enabled() and (inputs.requires_grad or targets.requires_grad)
        rate = self.observation.knowledge.learning_rate or 1.0
        here = {n: self.state[n] for n in self.moving}
        total: list[Tensor] | None = None
        with torch.enable_grad():
            for _ in range(self._steps):
                here = {n: t if t.requires_grad else t.detach().requires_grad_() for n, t in here.items()}
                step = torch.autograd.grad(
                    self.loss(here, inputs, targets),
                    list(here.values()),
                    create_graph=differentiable,
                    allow_unused=True,
                    materialize_grads=True,
                )
                total = list(step) if total is None else [a + b for a, b in zip(total, step, strict=True)]
                here = {n: t - rate * g for (n, t), g in zip(here.items(), step, strict=True)}
        assert total is not None  # at least one local step
        return self._finished(total, inputs, targets)

    def stacked_gradients(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        """`gradients` of K candidate batches; each result has the leading dimension K.

        Parameters
        ----------
        inputs : Tensor of shape (K, n, *input_shape)
        targets : Tensor of shape (K, n, ...)
        """
        if len(inputs) > 1 and self.vectorizes:
            return self.together(inputs, targets)
        each = [self.gradients(x, t) for x, t in zip(inputs, targets, strict=True)]
        return [torch.stack(parts) for parts in zip(*each, strict=True)]

    @cached_property
    def vectorizes(self) -> bool:
        """Whether several candidates can be computed in one pass: found by trying it on two.

        Not so, for example, with batch norm in training mode, which writes into its buffers, nor with layer
        norm, whose second derivatives come out wrong in one pass (seen in PyTorch 2.13).
        """
        return one_pass_agrees(self)

    def some_targets(self, inputs: Tensor) -> Tensor:
        """Targets that the loss takes for `inputs` (n, *input_shape): labels if it does, else numbers.

        The numbers differ from the outputs, for where they agree a loss may have no slope.
        """
        state = {n: t.detach().clone() for n, t in self.state.items()}
        outputs: Tensor = functional_call(self.observation.model, state, (inputs.detach(),)).detach()
        if outputs.dim() < 2:
            return outputs + 1
        labels = torch.zeros_like(outputs.select(1, 0), dtype=torch.int64)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # squared errors broadcast labels with a warning
                self.observation.loss_fn(outputs, labels)
        except (*REPLAY_ERRORS, UserWarning):
            return outputs + 1
        return labels

    def pure_gradients(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        """`gradients` as a pure function that torch.func transforms; steps are gradients of the same."""
        rate = self.observation.knowledge.learning_rate or 1.0
        here = {n: self.state[n] for n in self.moving}
        total: list[Tensor] | None = None
        for _ in range(self._steps):
            step = grad(self.loss)(here, inputs, targets)
            total = [(0 if total is None else total[i]) + step[n] for i, n in enumerate(here)]
            here = {n: here[n] - rate * step[n] for n in here}
        assert total is not None  # at least one local step
        return self._finished(total, inputs, targets)

    def together(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        """`stacked_gradients` in one pass; only right where `vectorizes`."""
        return list(vmap(self.pure_gradients)(inputs, targets))

    def _finished(self, total: list[Tensor], inputs: Tensor, targets: Tensor) -> list[Tensor]:
        kept: list[Tensor] = [g for n, g in zip(self.moving, total, strict=True) if n in self.names]
        if len(self.observation.update.contributors) == 1:
            return kept
        factor = pooling_factor(self.observation, inputs, targets, self.state)
        scaled: list[Tensor] = [factor * g for g in kept]
        return scaled


def _precision(observation: Observation) -> torch.dtype:
    tensors = observation.update.tensors
    names = compared_names(observation)
    double = all(tensors[n].dtype == torch.float64 for n in names)
    return (
        torch.float64 if double and sum(tensors[n].numel() for n in names) <= SMALL_MODEL else torch.float32
    )
