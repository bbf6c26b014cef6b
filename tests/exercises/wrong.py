"""Typical wrong answers: the function, a wrong body, and words of the hint that it must get."""

from __future__ import annotations

M = "a[:2, 2] / 2"
POINTS = """
def points(a, c):
    m = {m}
    w, v = torch.linalg.eigh(a[:2, :2] - 2 * torch.outer(m, m))
    d = {v} * {s}
    return torch.stack([m + d, m - d])
"""

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
    "the sign of the gradient": (
        "gradient",
        """
def gradient(points, targets, theta):
    z = torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
    return 2 * z.T @ (targets - z @ theta)
""",
        "the sign is wrong",
    ),
    "swapped": (
        "moments",
        "solved = moments\ndef moments(m, g):\n    return solved(m, g)[::-1]\n",
        "swapped",
    ),
    "A alone": (
        "moments",
        "solved = moments\ndef moments(m, g):\n    return solved(m, g)[0]\n",
        "expected two results, A and c, got a Tensor",
    ),
    "two, always": ("count", "def count(a):\n    return 2\n", "Bob has 1 point, got 2"),
    "the trace": ("count", "def count(a):\n    return int(a.trace())\n", "the last row and column"),
    "the bare rank": (
        "count",
        "def count(a):\n    return int(torch.linalg.matrix_rank(a))\n",
        "look at one entry of A",
    ),
    "not rounded": ("count", "def count(a):\n    return a[-1, -1]\n", "a float: round it"),
    "not halved": (
        "points",
        POINTS.format(m="a[:2, 2]", v="v[:, -1]", s="(w[-1] / 2).abs().sqrt()"),
        "twice the true",
    ),
    "twice the same": (
        "points",
        POINTS.format(m=M, v="v[:, -1]", s="(w[-1] / 2).sqrt()").replace("m - d", "m + d"),
        "both points are the same",
    ),
    "no root": ("points", POINTS.format(m=M, v="v[:, -1]", s="w[-1] / 2"), "take a root"),
    "no half": ("points", POINTS.format(m=M, v="v[:, -1]", s="w[-1].sqrt()"), "too far apart by √2"),
    "the smaller": ("points", POINTS.format(m=M, v="v[:, 0]", s="(w[-1] / 2).sqrt()"), "larger eigenvalue"),
    "NaN": ("points", POINTS.format(m=M, v="v[:, 0]", s="(-w[0].abs() - 1).sqrt()"), "take the larger one"),
    "a row": ("points", POINTS.format(m=M, v="v[-1]", s="(w[-1] / 2).sqrt()"), "are the columns"),
    "one m m^T": (
        "points",
        POINTS.format(m=M, v="v[:, -1]", s="(w[-1] / 2).sqrt()").replace("2 * torch.outer", "torch.outer"),
        "subtract 2 m m^T, not m m^T",
    ),
    "a tuple": (
        "points",
        "solved = points\ndef points(a, c):\n    return tuple(solved(a, c))\n",
        "got a tuple: put them into one with torch.stack",
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
    "no return": (
        "total",
        "def total(pointers):\n    pass\n",
        "expected one number, got None: is there a return?",
    ),
    "number by number": (
        "total",
        "def total(pointers):\n    return sum(float(v) for p in pointers for v in p.flatten())\n",
        "sum before you get",
    ),
    "one worker": (
        "total",
        "def total(pointers):\n    for p in pointers:\n        return p.sum().get()\n",
        "is the return inside the loop?",
    ),
    "row by row": (
        "train_step",
        """
def train_step(weights, data, target, lr):
    x = torch.stack([data[i].get() for i in range(6)])
    y = torch.stack([target[i].get() for i in range(6)])
    return weights - lr * 2 * x.T @ (x @ weights - y)
""",
        "do not fetch his data",
    ),
    "number after number": (
        "train_step",
        """
def train_step(weights, data, target, lr):
    x = torch.tensor([[float(data[i, j]) for j in range(3)] for i in range(6)])
    y = torch.tensor([[float(target[i, 0])] for i in range(6)])
    return weights - lr * 2 * x.T @ (x @ weights - y)
""",
        "do not fetch his data",
    ),
    "moved away": (
        "train_step",
        """
def train_step(weights, data, target, lr):
    me = fedpriv.VirtualWorker(None, id="me")
    x, y = data.move(me), target.move(me)
    w = weights.send(me)
    return (w - lr * 2 * x.T @ (x @ w - y)).get()
""",
        "do not fetch his data",
    ),
    "moments": (
        "train_step",
        """
def train_step(weights, data, target, lr):
    a, c = (data.T @ data).get(), (data.T @ target).get()
    return weights - lr * 2 * (a @ weights - c)
""",
        "do not fetch his data",
    ),
    "still there": (
        "train_step",
        """
def train_step(weights, data, target, lr):
    w = weights.send(data.location)
    return w - lr * 2 * data.T @ (data @ w - target)
""",
        "still at a worker: get it",
    ),
    "gradient only": (
        "train_step",
        """
def train_step(weights, data, target, lr):
    w = weights.send(data.location)
    return (2 * data.T @ (data @ w - target)).get()
""",
        "this is the gradient",
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
    "the first row": ("picture", "def picture(dw, db):\n    return dw[0] / db[0]\n", "that was off"),
    "not divided": (
        "picture",
        "def picture(dw, db):\n    return dw[db.abs().argmax()]\n",
        "divide a row of dW by its own entry",
    ),
    "numpy": (
        "picture",
        "def picture(dw, db):\n    return (dw.T @ db / (db @ db)).numpy()\n",
        "got a ndarray",
    ),
    "no return": ("label", "def label(db):\n    int(db.argmin())\n", "got None: is there a return?"),
    "zero": ("label", "def label(db):\n    return float(db.argmin())\n", "a float"),
    "the maximum": (
        "picture_without_bias",
        "def picture_without_bias(dw):\n    row = dw[dw.norm(dim=1).argmax()]\n    return row / row.max()\n",
        "0 / 0",
    ),
    "the size": (
        "picture_without_bias",
        "def picture_without_bias(dw):\n    row = dw[dw.norm(dim=1).argmax()]\n    return row / "
        "row.abs().max()\n",
        "divide by the entry itself",
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
    "six, always": ("batch_size", "def batch_size(g):\n    return 6\n", "too many for 4 samples"),
    "a fixed number": (
        "batch_size",
        "def batch_size(g):\n    return int((torch.linalg.svdvals(g) > 1e-9).sum())\n",
        "not with a fixed number",
    ),
    "no batch size": ("batch_size", "def batch_size(g):\n    pass\n", "expected an int, got None"),
    "squared": (
        "distance",
        """
def distance(vectors, gradient, rank):
    basis = torch.linalg.svd(gradient).Vh[:rank]
    rest = vectors - vectors @ basis.T @ basis
    return rest.square().sum(dim=1) / vectors.square().sum(dim=1)
""",
        "the square of the distance: take the root",
    ),
    "projection": (
        "distance",
        """
def distance(vectors, gradient, rank):
    basis = torch.linalg.svd(gradient).Vh[:rank]
    return (vectors @ basis.T).norm(dim=1) / vectors.norm(dim=1)
""",
        "subtract the projection",
    ),
    "columns": (
        "distance",
        """
def distance(vectors, gradient, rank):
    basis = torch.linalg.svd(gradient).Vh[:, :rank].T
    return (vectors - vectors @ basis.T @ basis).norm(dim=1) / vectors.norm(dim=1)
""",
        "you took columns",
    ),
    "empty": (
        "true_samples",
        "def true_samples(c, hidden, g1, g2):\n    return torch.empty(0)\n",
        "expected 14 truth values (bool), one for each candidate, got shape (0,), float32",
    ),
    "indices": (
        "true_samples",
        "solved = true_samples\ndef true_samples(*given):\n    return torch.where(solved(*given))[0]\n",
        "indices?",
    ),
    "a list": (
        "true_samples",
        "solved = true_samples\ndef true_samples(*given):\n    return solved(*given).tolist()\n",
        "got a list: make a Tensor with torch.tensor",
    ),
    "the second test": (
        "true_samples",
        "def true_samples(c, hidden, g1, g2):\n    return distance(hidden(c), g2, batch_size(g2)) < 1e-6\n",
        "test the first layer's space",
    ),
    "the first six": (
        "true_samples",
        "def true_samples(c, hidden, g1, g2):\n    return torch.arange(len(c)) < batch_size(g1)\n",
        "called",
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
    "per client": (
        "weighted_mean",
        "def weighted_mean(us, n):\n"
        "    return {k: sum(m * u[k] for m, u in zip(n, us)) / len(n) for k in us[0]}\n",
        "not of clients",
    ),
    "into the first": (
        "weighted_mean",
        """
def weighted_mean(us, n):
    total = us[0]
    for k in total:
        total[k] *= n[0] / sum(n)
        for u, m in zip(us[1:], n[1:]):
            total[k] += u[k] * m / sum(n)
    return total
""",
        "make new tensors",
    ),
    "the sum of the client": (
        "one_left",
        "def one_left(before, n, after, m):\n    return {k: n * before[k] - m * after[k] for k in before}\n",
        "divide by their number",
    ),
    "a tensor": ("one_left", "def one_left(before, n, after, m):\n    return before['w']\n", "got a Tensor"),
    "nothing": ("clip", "def clip(update, clip_norm):\n    pass\n", "got None: is there a return?"),
    "each by itself": (
        "clip",
        "def clip(update, c):\n    return {k: v * min(1.0, c / (v.norm() + 1e-12)) for k, v in "
        "update.items()}\n",
        "together",
    ),
    "always": (
        "clip",
        """
def clip(update, clip_norm):
    length = torch.cat([v.flatten() for v in update.values()]).norm()
    return {k: v * clip_norm / length for k, v in update.items()}
""",
        "stays as it is",
    ),
    "zero": (
        "clip",
        """
def clip(update, clip_norm):
    length = torch.cat([v.flatten() for v in update.values()]).norm()
    return {k: v * torch.minimum(length, torch.tensor(clip_norm)) / length for k, v in update.items()}
""",
        "0 / 0",
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
    "never replaced": (
        "sensitivity",
        "def sensitivity(c, n, *, replace):\n    return c / n\n",
        "two clip norms",
    ),
    "linear in the rounds": (
        "multiplier",
        """
def multiplier(epsilon, delta, rounds):
    return rounds * fedpriv.privacy.noise_for(epsilon=epsilon, delta=delta, rounds=1)
""",
        "the root of the rounds",
    ),
    "textbook": (
        "multiplier",
        "import math\n"
        "def multiplier(epsilon, delta, rounds):\n"
        "    return math.sqrt(2 * rounds * math.log(1.25 / delta)) / epsilon\n",
        "bisect",
    ),
    "far too much": ("multiplier", "def multiplier(e, d, r):\n    return 1000.0\n", "more noise than needed"),
    "no quantile": (
        "best_guess",
        """
def best_guess(k, s):
    return float(torch.special.ndtr(torch.tensor(k + 1 / s, dtype=torch.float64)))
""",
        "Phi^-1 first",
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
    "a float": (
        "cosine_distance",
        "solved = cosine_distance\ndef cosine_distance(a, b):\n    return solved(a, b).item()\n",
        "can be differentiated",
    ),
    "no root": (
        "cosine_distance",
        """
def cosine_distance(candidate, observed):
    a, b = (torch.cat([t.flatten() for t in g]) for g in (candidate, observed))
    return 1 - a @ b / (a.square().sum() * b.square().sum())
""",
        "root of the sum of squares",
    ),
    "sums": (
        "total_variation",
        """
def total_variation(x):
    return x.diff(dim=-1).abs().sum(dim=(1, 2, 3)) + x.diff(dim=-2).abs().sum(dim=(1, 2, 3))
""",
        "not their sums",
    ),
    "one for all": (
        "total_variation",
        "def total_variation(x):\n    return x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()\n",
        "expected shape (2,) (one number for each of 2 images)",
    ),
    "the first": ("choose", "def choose(candidates, residuals):\n    return candidates[0]\n", "start"),
    "the index": ("choose", "def choose(candidates, residuals):\n    return residuals.nanmean()\n", "index"),
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
    "no modulus": (
        "masked",
        "def masked(value, me, masks, q):\n"
        "    return value + sum(m if me < j else -m for j, m in masks.items())\n",
        "take the rest modulo q",
    ),
    "the other sign": (
        "masked",
        "def masked(value, me, masks, q):\n"
        "    return (value + sum(m if me > j else -m for j, m in masks.items())) % q\n",
        "the smaller number of a pair must add",
    ),
    "None": ("masked", "def masked(value, me, masks, q):\n    pass\n", "got None: is there a return?"),
    "i - j": (
        "recover",
        """
def recover(shares, q):
    total = 0
    for i, share in shares.items():
        for j in shares:
            share = share * j * pow(i - j, -1, q) if j != i else share
        total += share
    return total % q
""",
        "j / (j - i), not j / (i - j)",
    ),
    "whole numbers": (
        "recover",
        """
def recover(shares, q):
    total = 0
    for i, share in shares.items():
        others = [j for j in shares if j != i]
        total += share * math.prod(others) // math.prod(j - i for j in others)
    return total % q
""",
        "// is not division modulo q",
    ),
    "twice": (
        "unmask",
        """
def unmask(messages, lost, masks_of_lost, q):
    return (sum(messages.values()) - masked(0, lost, masks_of_lost, q)) % q
""",
        "twice",
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
    "indices": ("arrived", "def arrived(g):\n    return g.nonzero()\n", "expected 6 truth values (bool)"),
    "only large ones": (
        "arrived",
        "def arrived(g):\n    return g.abs() > 1e-6\n",
        "small entries arrived, too",
    ),
    "0 / 0": (
        "pixels",
        "def pixels(dw, db):\n    return db @ dw / (db.square() @ (dw != 0).double())\n",
        "0 / 0",
    ),
    "a difference": (
        "unclipped",
        "def unclipped(update, true, clipped):\n    return update + true - clipped\n",
        "not their difference",
    ),
    "nothing": ("unclipped", "def unclipped(update, true, clipped):\n    pass\n", "got None"),
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
    "sums": (
        "tokens_used",
        "def tokens_used(g):\n    return (g.sum(dim=1) != 0).nonzero().flatten().tolist()\n",
        "its sum or its largest entry",
    ),
    "truth values": (
        "tokens_used",
        "def tokens_used(g):\n    return (g != 0).any(dim=1).tolist()\n",
        "truth values, not indices",
    ),
    "a set": (
        "tokens_used",
        "solved = tokens_used\ndef tokens_used(g):\n    return set(solved(g))\n",
        "got a set: use sorted()",
    ),
    "backwards": (
        "tokens_in_span",
        "inside = tokens_in_span\ndef tokens_in_span(*given):\n    return inside(*given)[::-1]\n",
        "ascending",
    ),
    "the whole basis": (
        "tokens_in_span",
        """
def tokens_in_span(table, gradient, length):
    basis = torch.linalg.svd(gradient).Vh
    rest = (table - table @ basis.T @ basis).norm(dim=1) / table.norm(dim=1)
    return (rest < 1e-6).nonzero().flatten().tolist()
""",
        "every token passes",
    ),
    "rows": (
        "guess_accuracy",
        """
def guess_accuracy(table):
    return float((table == table.mode(dim=1, keepdim=True).values).double().mean())
""",
        "for each COLUMN",
    ),
    "percent": (
        "guess_accuracy",
        "solved = guess_accuracy\ndef guess_accuracy(table):\n    return 100 * solved(table)\n",
        "not percent",
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
