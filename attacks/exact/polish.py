"""Maximum likelihood on the samples themselves, as the last step after the detour over moments."""

from __future__ import annotations

import numpy as np

from attacks.exact.moments import Array, Visits


def polish(
    visits: Visits, inputs: Array, targets: Array, *, weight: float = 1.0, steps: int = 20
) -> tuple[Array, Array]:
    """Maximum likelihood on the samples themselves: Levenberg-Marquardt over all visits.

    Minimizes the squared difference between ``weight * sum_i (x~_i theta - y_i) x~_i`` and the answers in
    units of their noise. Removes the rounding that the detour over moments added.

    Parameters
    ----------
    visits : Visits
    inputs : array of shape (n, d)
    targets : array of shape (n, outputs)
    weight : float
        Factor of every sample (1/n for a mean loss).
    steps : int
        At most this many.
    """
    n, d = inputs.shape
    point = np.concatenate([inputs.ravel(), targets.ravel()])
    residual, jacobian = _residual_and_jacobian(visits, point, (n, d), weight)
    cost, damping = residual @ residual, 1e-9
    for _ in range(steps):
        gram, slope = jacobian.T @ jacobian, jacobian.T @ residual
        scale = np.diag(gram).max()
        try:
            step = np.linalg.solve(gram + damping * scale * np.eye(len(point)), slope)
        except np.linalg.LinAlgError:
            break
        trial = point - step
        new_residual, new_jacobian = _residual_and_jacobian(visits, trial, (n, d), weight)
        new_cost = new_residual @ new_residual
        if new_cost < cost:
            converged = cost - new_cost < 1e-10 * cost
            point, residual, jacobian, cost = trial, new_residual, new_jacobian, new_cost
            damping = max(damping / 10, 1e-15)
            if converged:
                break
        elif damping > 1e3:
            break
        else:
            damping *= 10
    return point[: n * d].reshape(n, d), point[n * d :].reshape(n, -1)


def _residual_and_jacobian(
    visits: Visits, point: Array, shape: tuple[int, int], weight: float
) -> tuple[Array, Array]:
    n, d = shape
    rows = np.arange(len(visits.theta))
    extended = np.column_stack([point[: n * d].reshape(n, d), np.ones(n)])
    targets = point[n * d :].reshape(n, -1)
    error = visits.theta @ extended.T - targets.T[visits.output]  # (rows, n)
    scale = weight / visits.noise
    residual = (error * scale[:, None]) @ extended - visits.gradient / visits.noise[:, None]
    # d/dx_i of error_i x~_i = error_i I + x~_i w^T ; d/dy_i = -x~_i
    jacobian = np.zeros((len(rows), d + 1, n, d))
    jacobian[:, np.arange(d), :, np.arange(d)] = error[None] * scale[None, :, None]
    jacobian += (scale[:, None, None, None] * extended.T[None, :, :, None]) * visits.theta[:, None, None, :d]
    by_target = np.zeros((len(rows), d + 1, n, targets.shape[1]))
    by_target[rows, :, :, visits.output] = -scale[:, None, None] * extended.T[None]
    both = [jacobian.reshape(len(rows) * (d + 1), n * d), by_target.reshape(len(rows) * (d + 1), -1)]
    return residual.reshape(-1), np.concatenate(both, axis=1)
