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

OPTIMISE = {
    "similarity": (
        "cosine_distance",
        """
def cosine_distance(candidate, observed):
    a, b = (torch.cat([t.flatten() for t in g]) for g in (candidate, observed))
    return a @ b / (a.norm() * b.norm())
""",
        "one minus it",
    ),
    "tensor by tensor": (
        "cosine_distance",
        """
def cosine_distance(candidate, observed):
    pairs = zip(candidate, observed, strict=True)
    cosines = [torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in pairs]
    return 1 - torch.stack(cosines).mean()
""",
        "all parameters are one vector",
    ),
    "signed": (
        "total_variation",
        """
def total_variation(x):
    down, across = x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
    return down.flatten(1).mean(dim=1) + across.flatten(1).mean(dim=1)
""",
        "take absolute differences",
    ),
    "argmin of NaN": (
        "choose",
        "def choose(candidates, residuals):\n    return candidates[residuals.argmin()]\n",
        "NaN is not small",
    ),
}

SECURE_AGGREGATION = {
    "everybody adds": (
        "masked",
        "def masked(value, me, masks, q):\n    return (value + sum(masks.values())) % q\n",
        "nothing cancels",
    ),
    "division": (
        "recover",
        """
def recover(shares, q):
    total = 0
    for i, share in shares.items():
        for j in shares:
            share = share * j / (j - i) if j != i else share
        total += share
    return total % q
""",
        "divide with pow",
    ),
    "nothing taken out": (
        "unmask",
        "def unmask(messages, lost, masks_of_lost, q):\n    return sum(messages.values()) % q\n",
        "are still in",
    ),
    "one sign": (
        "unmask",
        """
def unmask(messages, lost, masks_of_lost, q):
    return (sum(messages.values()) - sum(masks_of_lost.values())) % q
""",
        "added their mask",
    ),
}

BROKEN_DEFENSES = {
    "positive": ("arrived", "def arrived(g):\n    return g > 0\n", "negative entries"),
    "zeros count": (
        "pixels",
        "def pixels(dw, db):\n    return dw.T @ db / db.square().sum()\n",
        "count as zeros",
    ),
    "upside down": (
        "unclipped",
        "def unclipped(update, true, clipped):\n    return update * clipped / true\n",
        "the wrong way",
    ),
}

TEXT_AND_TABLES = {
    "each coordinate": (
        "tokens_used",
        "def tokens_used(g):\n    return g.nonzero()[:, 0].tolist()\n",
        "once for each coordinate",
    ),
    "columns": (
        "tokens_in_span",
        """
def tokens_in_span(table, gradient, length):
    basis = torch.linalg.svd(gradient).Vh[:, :length].T
    rest = (table - table @ basis.T @ basis).norm(dim=1) / table.norm(dim=1)
    return (rest < 1e-6).nonzero().flatten().tolist()
""",
        "project on ROWS",
    ),
    "one value for all": (
        "guess_accuracy",
        """
def guess_accuracy(table):
    return float((table == table.flatten().mode().values).double().mean())
""",
        "its own most frequent value",
    ),
}

WRONG = {
    "pointers": POINTERS,
    "tutorial": TUTORIAL,
    "one_image": ONE_IMAGE,
    "batch": BATCH,
    "optimise": OPTIMISE,
    "averaging": AVERAGING,
    "secure_aggregation": SECURE_AGGREGATION,
    "noise": NOISE,
    "broken_defenses": BROKEN_DEFENSES,
    "text_and_tables": TEXT_AND_TABLES,
}
