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
    "every row": ("picture", "def picture(dw, db):\n    return (dw / db[:, None]).mean(dim=0)\n", "that was off"),
    "all rows": ("picture", "def picture(dw, db):\n    return dw / db.abs().max()\n", "one row, not all"),
    "the likeliest class": ("label", "def label(db):\n    return int(db.argmax())\n", "look at signs"),
    "unit length": (
        "picture_without_bias",
        "def picture_without_bias(dw):\n    row = dw[dw.norm(dim=1).argmax()]\n    return row / row.norm()\n",
        "the brightest pixel is 1",
    ),
}

WRONG = {"pointers": POINTERS, "tutorial": TUTORIAL, "one_image": ONE_IMAGE}
