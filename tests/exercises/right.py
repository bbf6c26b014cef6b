"""Other right answers: what textbooks and students write instead of the solution."""

from __future__ import annotations

POINTERS = {
    "backward, then a step in place": """
def train_step(weights, data, target, lr):
    w = weights.send(data.location)
    w.requires_grad_()
    loss = ((data @ w - target) ** 2).sum()
    loss.backward()
    with torch.no_grad():
        w -= lr * w.grad
    return w.get()
""",
    "an optimizer": """
def train_step(weights, data, target, lr):
    w = weights.send(data.location).requires_grad_()
    ((data @ w - target) ** 2).sum().backward()
    torch.optim.SGD([w], lr=lr).step()
    return w.get()
""",
    "both home, step here": """
def train_step(weights, data, target, lr):
    w = weights.send(data.location).requires_grad_()
    loss = ((data @ w - target) ** 2).sum()
    loss.backward()
    print("loss", float(loss.detach()))
    return w.get() - lr * w.grad.get()
""",
    "by hand": """
def train_step(weights, data, target, lr):
    w = fedpriv.pointers.send(weights, data.location)
    return (w - 2 * lr * data.T @ (data @ w - target)).get()

def total(pointers):
    result = 0
    for pointer in pointers:
        result += pointer.sum().item()
    return result

def place(value):
    if type(value) is fedpriv.PointerTensor:
        return value.location.id
    return "here"
""",
}

TUTORIAL = {
    "autograd, differences, roots": """
def gradient(points, targets, theta):
    theta = theta.clone().requires_grad_()
    ((points @ theta[:2] + theta[2] - targets) ** 2).sum().backward()
    return theta.grad

def moments(models, gradients):
    a = torch.linalg.solve(models[1:] - models[0], (gradients[1:] - gradients[0]) / 2)
    return a, a @ models[0] - gradients[0] / 2

def count(a):
    return int(a[2, 2])

def points(a, c):
    m = a[:2, 2] / 2
    block = (a[:2, :2] - 2 * torch.outer(m, m)) / 2
    dx = block[0, 0].sqrt()
    d = torch.stack([dx, block[0, 1] / dx])
    return torch.stack([m - d, m + d])
""",
    "pseudoinverse and singular vectors": """
def moments(models, gradients):
    solution = torch.linalg.pinv(torch.cat([models, -torch.ones(len(models), 1)], 1).double()) @ gradients / 2
    return solution[:3], solution[3]

def count(a):
    return a[2, 2].round().int()

def points(a, c):
    m = a[2, :2] / 2
    u, s, vh = torch.linalg.svd(a[:2, :2] - 2 * m[:, None] * m)
    d = u[:, 0] * (s[0] / 2) ** 0.5
    return torch.vstack([m + d, m - d])
""",
}

ONE_IMAGE = {
    "one row": """
def picture(dw, db):
    row = db.abs().argmax()
    return dw[row] / db[row]

def label(db):
    return (db < 0).nonzero()

def picture_without_bias(dw):
    x = torch.linalg.svd(dw).Vh[0]
    return x / x[x.abs().argmax()]
""",
    "mean over those that are on": """
def picture(dw, db):
    on = db != 0
    return (dw[on] / db[on, None]).mean(dim=0)

def label(db):
    return min(range(len(db)), key=lambda k: db[k])

def picture_without_bias(dw):
    x = dw.abs().sum(dim=0)
    return x / x.max()
""",
}

BATCH = {
    "matrix_rank and Pythagoras": """
def batch_size(g):
    return torch.linalg.matrix_rank(g)

def distance(vectors, gradient, rank):
    inside = (vectors @ torch.linalg.svd(gradient).Vh[:rank].T).square().sum(dim=1)
    return (1 - inside / vectors.square().sum(dim=1)).clamp(min=0).sqrt()

def true_samples(c, hidden, g1, g2):
    n = batch_size(g1)
    return torch.logical_and(distance(c, g1, n) < 1e-6, distance(hidden(c), g2, n) < 1e-6)
""",
    "loops": """
def batch_size(g):
    s = torch.linalg.svd(g).S
    return sum(1 for v in s if v / s[0] > 1e-9)

def distance(vectors, gradient, rank):
    q = torch.linalg.svd(gradient, full_matrices=False).Vh[:rank]
    out = []
    for v in vectors:
        rest = v.clone()
        for row in q:
            rest = rest - (row @ v) * row
        out.append(rest.norm() / v.norm())
    return torch.stack(out)

def true_samples(c, hidden, g1, g2):
    near = distance(c, g1, batch_size(g1)) < 1e-6
    h = hidden(c)
    return torch.tensor([bool(near[i]) and float(distance(h[i:i+1], g2, 6)) < 1e-6 for i in range(len(c))])
""",
}

OPTIMISE = {
    "sums over tensors": """
def cosine_distance(candidate, observed):
    dot = sum((a * b).sum() for a, b in zip(candidate, observed))
    left = sum((a ** 2).sum() for a in candidate).sqrt()
    right = sum((b ** 2).sum() for b in observed).sqrt()
    return 1 - dot / (left * right)

def total_variation(images):
    return images.diff(dim=2).abs().mean((1, 2, 3)) + images.diff(dim=3).abs().mean((1, 2, 3))

def choose(candidates, residuals):
    return candidates[residuals.argsort()[0]]
""",
    "torch's own": """
def cosine_distance(candidate, observed):
    a, b = (torch.cat([t.reshape(-1) for t in g])[None] for g in (candidate, observed))
    return 1 - torch.nn.functional.cosine_similarity(a, b)

def total_variation(images):
    result = []
    for x in images:
        result.append((x[:, 1:] - x[:, :-1]).abs().mean() + (x[:, :, 1:] - x[:, :, :-1]).abs().mean())
    return torch.stack(result)

def choose(candidates, residuals):
    good = ~residuals.isnan()
    return candidates[good][residuals[good].argmin()]
""",
}

AVERAGING = {
    "accumulate, and a joint vector": """
def weighted_mean(updates, num_samples):
    total = {k: torch.zeros_like(v) for k, v in updates[0].items()}
    for update, n in zip(updates, num_samples):
        for k in total:
            total[k] += n * update[k]
    return {k: v / sum(num_samples) for k, v in total.items()}

def one_left(before, n, after, m):
    return {k: before[k] + (before[k] - after[k]) * m / (n - m) for k in before}

def clip(update, clip_norm):
    length = torch.cat([v.flatten() for v in update.values()]).norm()
    return {k: v * min(1.0, clip_norm / (length + 1e-12)) for k, v in update.items()}
""",
    "stack, and torch's own clipping": """
def weighted_mean(updates, num_samples):
    n = torch.tensor(num_samples, dtype=torch.float32)
    return {k: torch.tensordot(n / n.sum(), torch.stack([u[k] for u in updates]), dims=1) for k in updates[0]}

def clip(update, clip_norm):
    copies = {k: v.clone() for k, v in update.items()}
    for v in copies.values():
        v.grad = v.clone()
    torch.nn.utils.clip_grad_norm_(copies.values(), clip_norm)
    return {k: v.grad for k, v in copies.items()}
""",
}

SECURE_AGGREGATION = {
    "step by step": """
def masked(value, me, masks, q):
    for other in masks:
        if other > me:
            value += masks[other]
        else:
            value -= masks[other]
    return value % q

def recover(shares, q):
    secret = 0
    for i in shares:
        weight = 1
        for j in shares:
            if j != i:
                weight = weight * j * pow(j - i, q - 2, q) % q
        secret = (secret + shares[i] * weight) % q
    return secret

def unmask(messages, lost, masks_of_lost, q):
    total = 0
    for k, message in messages.items():
        total += message - masks_of_lost[k] if k < lost else message + masks_of_lost[k]
    return total % q
""",
    "the lost client's own message": """
def recover(shares, q):
    from fractions import Fraction
    total = Fraction(0)
    for i, share in shares.items():
        term = Fraction(share)
        for j in shares:
            if j != i:
                term *= Fraction(-j, i - j)
        total += term
    return total.numerator * pow(total.denominator, -1, q) % q

def unmask(messages, lost, masks_of_lost, q):
    return (sum(messages.values()) + masked(0, lost, masks_of_lost, q)) % q
""",
}

NOISE = {
    "the library, and the root of the rounds": """
def sensitivity(clip_norm, num_clients, *, replace):
    if replace:
        return 2 * clip_norm / num_clients
    return clip_norm / num_clients

def multiplier(epsilon, delta, rounds):
    return rounds ** 0.5 * fedpriv.privacy.noise_for(epsilon=epsilon, delta=delta, rounds=1)

def best_guess(k, s):
    return fedpriv.privacy.rero_bound(prior_success=k, noise_multiplier=s)
""",
    "plain bisection, error function": """
def multiplier(epsilon, delta, rounds):
    low, high = 0.1, 1000.0
    for _ in range(40):
        middle = (low + high) / 2
        if fedpriv.privacy.epsilon(noise_multiplier=middle, delta=delta, rounds=rounds) > epsilon:
            low = middle
        else:
            high = middle
    return torch.tensor(high)

def best_guess(k, s):
    from statistics import NormalDist
    return NormalDist().cdf(NormalDist().inv_cdf(k) + 1 / s)
""",
}

BROKEN_DEFENSES = {
    "a loop over pixels": """
import torch

def arrived(pruned):
    return ~(pruned == 0)

def pixels(dw, db):
    x = torch.zeros_like(dw[0])
    for j in range(dw.shape[1]):
        on = arrived(dw[:, j]) & arrived(db)
        if on.any():
            x[j] = (dw[on, j] / db[on]).mean()
    return x

def unclipped(update, true, clipped):
    return update / (clipped / true)
""",
    "nan_to_num": """
def arrived(pruned):
    return pruned.bool()

def pixels(dw, db):
    there = arrived(dw).double()
    return ((db[:, None] * dw).sum(0) / (db[:, None] ** 2 * there).sum(0)).nan_to_num()
""",
}

TEXT_AND_TABLES = {
    "sets and counters": """
def tokens_used(g):
    return sorted({int(i) for i, _ in g.nonzero()})

def tokens_in_span(table, gradient, length):
    basis = torch.linalg.svd(gradient).Vh[:length]
    found = []
    for k, row in enumerate(table):
        if (row - basis.T @ (basis @ row)).norm() < 1e-6 * row.norm():
            found.append(k)
    return found

def guess_accuracy(table):
    from collections import Counter
    hits = sum(Counter(column.tolist()).most_common(1)[0][1] for column in table.T)
    return hits / table.numel()
""",
    "tensors": """
def tokens_used(g):
    return (g != 0).any(dim=1).nonzero().flatten()

def tokens_in_span(table, gradient, length):
    rest = table - table @ torch.linalg.pinv(gradient, rtol=1e-9) @ gradient
    return rest.norm(dim=1).topk(length, largest=False).indices.sort().values

def guess_accuracy(table):
    return (table == table.mode(0).values).float().mean()
""",
}

RIGHT = {
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
