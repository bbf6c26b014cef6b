"""The pieces of the page as HTML: from what `fedpriv.lab.explore` computed to what is read."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape

import torch

from fedpriv.lab.explore import Answer, Data, Job, Model, Scene, limits, pictures
from fedpriv.lab.explore.answer import CLOSER, RECOVERED
from fedpriv.lab.explore.cost import Cost, show
from fedpriv.lab.explore.limits import Limit

MOST_SAMPLES = 16
"""Samples that are drawn; the numbers are about all of them."""


def people(scene: Scene) -> str:
    """What the people have and never send."""
    if scene.choice.data is Data.POINTS:
        points = {name.capitalize(): inputs for name, (inputs, _) in scene.people.items()}
        picture = pictures.points(points, None)
        return _plot(picture, "Everybody's points in the plane, as open markers")
    owned = [(name, sample) for name, (inputs, _) in scene.people.items() for sample in inputs]
    tiles = [
        _tile(pictures.image(sample), f"a picture of {name}'s", name.capitalize())
        for name, sample in owned[:MOST_SAMPLES]
    ]
    return _tiles(tiles) + _more(len(owned))


def server(scene: Scene) -> str:
    """What arrived: from whom, how many numbers, and some of them as pictures or figures."""
    update, visits = scene.observations[-1].update, scene.choice.visits
    if len(update.contributors) > 1:
        *most, last = [name.capitalize() for name in update.contributors]
        names = ", ".join(most) + f" and {last}"
        whom = f"the aggregator: one mean over {names}, and no name on any part of it"
    else:
        whom = f"{update.sender.capitalize()} alone"
    facts = [
        ("from", escape(whom)),
        (
            "numbers",
            f"{scene.numbers_sent:,} in " + ("one update" if visits == 1 else f"each of {visits} updates"),
        ),
        ("length (L2 norm)", f"{scene.norm:.3g} as it arrived"),
    ]
    if scene.noise_std:
        share = scene.noise_std * math.sqrt(scene.numbers_sent)
        facts.append(("noise in it", f"{scene.noise_std:.2g} on each number, {share:.3g} in length"))
    return _facts(facts) + (_numbers(scene) if scene.choice.data is Data.POINTS else _rows(scene))


def progress(job: Job) -> str:
    """How far an attack is."""
    percent = round(100 * job.fraction)
    words = f"{escape(job.stage)}: {job.seconds:.0f} s"
    if job.over:
        return f'<p class="fp-legend" role="status">{words}</p>'
    return (
        f'<div class="fp-progress"><div class="fp-bar" role="progressbar" aria-valuenow="{percent}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-label="time used"><i style="width:{percent}%"></i></div>'
        f'<p role="status">{words}; the attack may take {job.choice.time_budget:g} s</p></div>'
    )


def outcome(job: Job) -> str:
    """The reconstruction beside the truth, or why there is none."""
    if job.answer is None:
        return f'<p class="fp-verdict" role="status">No result: {escape(job.fault)}.</p>'
    found = job.answer
    if found.found is None:
        shown = ""
    elif found.choice.data is Data.POINTS:
        picture = pictures.points({"the people": found.truth}, found.found)
        shown = _plot(picture, "True points open, reconstructed ones filled")
    else:
        shown = _pairs(found, found.found)
    return _verdict(found) + shown + _facts(_grades(found))


def theory(lines: Iterable[Limit]) -> str:
    """Numbers that hold for every attack, each with its words."""
    cards = (
        f'<div class="fp-card"><h3>{escape(line.name)}</h3><strong>{escape(line.shown)}</strong>'
        f"<p>{escape(line.meaning)}</p></div>"
        for line in lines
    )
    return f'<div class="fp-cards">{"".join(cards)}</div>'


def scene_limits(scene: Scene) -> list[Limit]:
    """Those that take no time."""
    return [limits.epsilon(scene), limits.success(scene)]


def job_limits(job: Job) -> list[Limit]:
    """Those that come with an attack: the least error, and the price."""
    found = [] if job.answer is None else [job.answer.error]
    return found if job.cost is None else [*found, price(job.cost)]


def price(cost: Cost) -> Limit:
    """The cost of the defense as a line like the others."""
    if not cost.measure:
        return Limit(name="what it costs", shown="not measured", meaning=cost.words)
    return Limit(
        name=f"what it costs: {cost.measure}",
        shown=show(cost.with_defense, cost.measure),
        meaning=cost.words,
        value=cost.with_defense,
    )


def _verdict(found: Answer) -> str:
    count = len(found.truth)
    if found.refusal:
        return _refused(found)
    if found.recovered:
        text = f"The server has {found.recovered} of {count}"
        proven = sum(found.certified)
        text += f", and can prove {proven} of them." if proven else ", but can prove none of them."
    else:
        text = f"The server has none of {count} exactly, with this attack and this time."
    if found.near:
        text += f" Of {found.near} it has a likeness: much closer than a guess."
    kind = "fp-leak" if found.recovered or found.near else "fp-safe"
    return f'<p class="fp-verdict {kind}" role="status">{text}</p>'


def _refused(found: Answer) -> str:
    """That there is no reconstruction, what is determined all the same, and the reasons for who asks."""
    verdict = "No attack has an answer: the updates do not determine the samples, or not to what we know."
    known = [(escape(name.replace("_", " ")), _short(values)) for name, values in found.determined.items()]
    surely = f'<p class="fp-legend">Determined all the same:</p>{_facts(known)}' if known else ""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in found.refusal.split("; ")[1:])
    return (
        f'<p class="fp-verdict" role="status">{verdict}</p>{surely}'
        f'<details class="fp-reasons"><summary>Why</summary><ul>{reasons}</ul></details>'
    )


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _grades(found: Answer) -> list[tuple[str, str]]:
    if found.refusal:
        return []
    labels = found.labels_right
    best = max(found.psnr)
    facts = [
        ("attack", escape(found.method)),
        ("claimed", f"{_count(found.num_claimed, 'sample')} (there are {len(found.truth)})"),
        ("recovered", f"{found.recovered} with {RECOVERED:.0f} dB or more; best {best:.0f} dB, "
                      f"best guess without the update {max(found.guess_psnr):.0f} dB"),
        ("targets", "not claimed" if labels is None else f"{sum(labels)} of {len(labels)} right"),
        ("certificate", f"{sum(found.certified)} of {len(found.truth)}: proof that needs no truth"),
        ("residual", f"{found.residual:.1e}: how far the update of these samples is from the one observed"),
        ("time", f"{found.seconds:.2f} s, proof included"),
    ]  # fmt: skip
    return facts + [("note", escape(note)) for note in found.notes]


def _pairs(found: Answer, claimed: torch.Tensor) -> str:
    tiles = []
    for k in range(min(len(found.truth), MOST_SAMPLES)):
        truth = f'<img src="{_uri(pictures.image(found.truth[k]))}" alt="the truth">'
        missing = bool(claimed[k].isnan().any())
        guess = (
            '<span class="fp-none">not found</span>'
            if missing
            else f'<img src="{_uri(pictures.image(claimed[k]))}" alt="what the server reconstructed">'
        )
        proof = " · proven" if found.certified[k] else ""
        quality = "–" if missing else f"{found.psnr[k]:.0f} dB"
        near = found.psnr[k] >= found.guess_psnr[k] + CLOSER
        leak = " fp-leak" if found.psnr[k] >= RECOVERED else " fp-near" * near
        caption = f"<figcaption>{quality}{proof}</figcaption>"
        tiles.append(f'<figure class="fp-pair{leak}"><div>{truth}{guess}</div>{caption}</figure>')
    legend = '<p class="fp-legend">Left the truth, right what the server reconstructed.</p>'
    return legend + _tiles(tiles) + _more(len(found.truth))


def _rows(scene: Scene) -> str:
    tiles = [
        _tile(pictures.signed(row), f"part {index} of the update as colors", f"{index}")
        for index, row in pictures.rows_of_update(scene)
    ]
    what = "filter" if scene.choice.model is Model.LENET else "neuron"
    legend = (
        f"The {len(tiles)} {what}s of the first layer with the most to say, each as it would multiply the "
        "input: blue below zero, orange above."
    )
    return _tiles(tiles) + f'<p class="fp-legend">{legend}</p>'


def _numbers(scene: Scene) -> str:
    headings, rows = pictures.numbers_of_update(scene)
    linear = len(scene.observations[0].update.tensors) == 2
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "".join(
        f"<tr><th>{k + 1}</th>" + "".join(f"<td>{value:+.4f}</td>" for value in row) + "</tr>"
        for k, row in enumerate(rows)
    )
    first = "visit" if linear else "neuron"
    return (
        f'<div class="fp-scroll"><table class="fp-table"><tr><th>{first}</th>{head}</tr>{body}</table></div>'
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts)
    return f'<dl class="fp-facts">{lines}</dl>' if lines else ""


def _tiles(tiles: Sequence[str]) -> str:
    return f'<div class="fp-tiles">{"".join(tiles)}</div>'


def _tile(picture: bytes, alt: str, caption: str) -> str:
    return (
        f'<figure><img src="{_uri(picture)}" alt="{escape(alt)}"><figcaption>{caption}</figcaption></figure>'
    )


def _plot(picture: bytes, alt: str) -> str:
    return f'<img class="fp-plot" src="{_uri(picture)}" alt="{escape(alt)}">'


def _more(count: int) -> str:
    return f'<p class="fp-legend">and {count - MOST_SAMPLES} more</p>' if count > MOST_SAMPLES else ""


def _uri(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
