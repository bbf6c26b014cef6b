"""Typical wrong answers: the function, a wrong body, and words of the hint that it must get."""

from __future__ import annotations

TUTORIAL = {
    "mean instead of sum": (
        "gradient",
        """
def gradient(points, targets, theta):
    z = torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
    return 2 * z.T @ (z @ theta - targets) / len(points)
""",
        "half of the gradient",
    ),
    "sign of c": (
        "moments",
        """
def moments(models, gradients):
    design = torch.cat([models, torch.ones_like(models[:, :1])], dim=1)
    solution = torch.linalg.lstsq(design, gradients / 2).solution
    return solution[:-1].T, solution[-1]
""",
        "c has the wrong sign",
    ),
    "rank": (
        "count",
        "def count(a):\n    return int(torch.linalg.matrix_rank(a)) + 1\n",
        "Bob has 2 points, got 3",
    ),
    "the mean twice": (
        "points",
        "def points(a, c):\n    return (a[:-1, -1] / a[-1, -1]).expand(2, 2)\n",
        "both points are the mean",
    ),
}

POINTERS = {
    "the worker itself": (
        "place",
        "def place(value):\n    return getattr(value, 'location', 'here')\n",
        "location.id",
    ),
    "fetch, then sum": (
        "total",
        "def total(pointers):\n    return sum(fedpriv.pointers.get(p).sum() for p in pointers)\n",
        "sum before you get",
    ),
    "fetch the data": (
        "train_step",
        """
def train_step(weights, data, target, lr):
    x, y = fedpriv.pointers.get(data), fedpriv.pointers.get(target)
    return weights - lr * 2 * x.T @ (x @ weights - y)
""",
        "do not fetch his data",
    ),
    "uphill": (
        "train_step",
        """
def train_step(weights, data, target, lr):
    there = fedpriv.pointers.send(weights.clone(), data.location)
    return fedpriv.pointers.get(there + lr * 2 * data.T @ (data @ there - target))
""",
        "minus the gradient",
    ),
}

ONE_IMAGE = {
    "every row": (
        "picture",
        "def picture(dw, db):\n    return (dw / db[:, None]).mean(dim=0)\n",
        "that was off",
    ),
    "all rows": ("picture", "def picture(dw, db):\n    return dw / db.abs().max()\n", "one row, not all"),
    "the likeliest class": ("label", "def label(db):\n    return int(db.argmax())\n", "look at signs"),
    "unit length": (
        "picture_without_bias",
        "def picture_without_bias(dw):\n    row = dw[dw.norm(dim=1).argmax()]\n    return row / row.norm()\n",
        "the brightest pixel is 1",
    ),
}

BATCH = {
    "rounding counted": (
        "batch_size",
        "def batch_size(g):\n    return int((torch.linalg.svdvals(g) > 0).sum())\n",
        "rounding is not rank",
    ),
    "the whole basis": (
        "distance",
        """
def distance(vectors, gradient, rank):
    basis = torch.linalg.svd(gradient).Vh
    rest = vectors - vectors @ basis.T @ basis
    return rest.norm(dim=1) / vectors.norm(dim=1)
""",
        "is the rank used?",
    ),
    "absolute": (
        "distance",
        """
def distance(vectors, gradient, rank):
    basis = torch.linalg.svd(gradient).Vh[:rank]
    return (vectors - vectors @ basis.T @ basis).norm(dim=1)
""",
        "divide by the length",
    ),
    "one test": (
        "true_samples",
        "def true_samples(c, hidden, g1, g2):\n    return distance(c, g1, batch_size(g1)) < 1e-6\n",
        "mixtures are called true",
    ),
}

AVERAGING = {
    "equal weights": (
        "weighted_mean",
        "def weighted_mean(us, n):\n    return {k: sum(u[k] for u in us) / len(n) for k in us[0]}\n",
        "whoever has more samples counts more",
    ),
    "difference of means": (
        "one_left",
        "def one_left(before, n, after, m):\n    return {k: before[k] - after[k] for k in before}\n",
        "different denominators",
    ),
    "as shipped": (
        "clip",
        """
def clip(update, clip_norm):
    for tensor in update.values():
        tensor = tensor * min(1.0, clip_norm / tensor.norm())
    return update
""",
        "nothing was clipped",
    ),
    "in place": (
        "clip",
        """
def clip(update, clip_norm):
    for tensor in update.values():
        tensor *= 0.5
    return update
""",
        "make new tensors",
    ),
}

NOISE = {
    "of the sum": (
        "sensitivity",
        "def sensitivity(clip_norm, n, *, replace):\n    return (2 if replace else 1) * clip_norm\n",
        "sensitivity of the sum",
    ),
    "one round": (
        "multiplier",
        """
def multiplier(epsilon, delta, rounds):
    return fedpriv.privacy.noise_for(epsilon=epsilon, delta=delta, rounds=1)
""",
        "every round costs",
    ),
    "times s": (
        "best_guess",
        """
def best_guess(k, s):
    normal = torch.distributions.Normal(0.0, 1.0)
    return float(normal.cdf(normal.icdf(torch.tensor(k)) + s))
""",
        "divide by s",
    ),
}

WRONG = {
    "pointers": POINTERS,
    "tutorial": TUTORIAL,
    "one_image": ONE_IMAGE,
    "batch": BATCH,
    "averaging": AVERAGING,
    "noise": NOISE,
}
