"""The page. It draws and asks; all that is computed is in `fedpriv.lab.explore`."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="fedpriv explorer", css_file="style.css")

with app.setup:
    import marimo as mo

    from fedpriv.explorer import parts
    from fedpriv.lab import explore

    def section(number: int, title: str, text: str) -> mo.Html:
        """A heading with three short sentences under it."""
        return mo.Html(
            f'<section class="fp-section"><h2><span>{number}</span>{title}</h2><p>{text}</p></section>'
        )


@app.cell
def _():
    mo.Html(
        '<header class="fp-hero"><h1>What can a server read in an update?</h1><p>In federated learning data '
        "stay at home and only updates travel. Here you are the server: choose a setting, press attack, and "
        "see what comes back. Everything is computed on this machine; nothing leaves it.</p></header>"
    )
    return


@app.cell
def _():
    desk = explore.Desk()
    data = mo.ui.dropdown(
        {kind.value: kind for kind in explore.Data}, value="handwritten digits", label="data", full_width=True
    )
    return data, desk


@app.cell
def _(data):
    kind = data.value
    fitting = {entry.value: entry for entry in kind.models}
    points = kind is explore.Data.POINTS
    model = mo.ui.dropdown(fitting, value=list(fitting)[0 if points else 1], label="model", full_width=True)
    batch = mo.ui.slider(
        1, kind.max_batch, value=2 if points else 4, show_value=True, label="samples of each", full_width=True
    )
    people = mo.ui.slider(1, 8, value=1, show_value=True, label="people averaged", full_width=True)
    visits = mo.ui.slider(
        1, 8, value=4 if points else 1, show_value=True, label="visits of the server", full_width=True
    )
    clip = mo.ui.slider(
        steps=[0, 0.1, 0.3, 1, 3, 10], value=0, show_value=True, label="clip norm (0: off)", full_width=True
    )
    noise = mo.ui.slider(
        steps=[0, 0.1, 0.3, 1, 3, 10, 30, 100, 300],
        value=0,
        show_value=True,
        label="noise (% of the clip norm)",
        full_width=True,
    )
    budget = mo.ui.slider(
        steps=[5, 10, 20, 60, 180], value=20, show_value=True, label="seconds for the attack", full_width=True
    )
    seed = mo.ui.number(0, 9999, value=0, step=1, label="seed", full_width=True)
    return batch, budget, clip, model, noise, people, seed, visits


@app.cell
def _(batch, budget, clip, data, model, noise, people, seed, visits):
    controls = (data, model, batch, people, visits, clip, noise, budget, seed)
    mo.vstack(
        [
            section(
                1,
                "Choose",
                "Who trains what, and who protects whom. Averaging hides who sent what; clipping bounds the "
                "length of an update; noise hides its digits. Only one of the three limits every attack.",
            ),
            mo.Html(
                '<div class="fp-controls">' + "".join(f"<div>{entry}</div>" for entry in controls) + "</div>"
            ),
        ]
    )
    return


@app.cell
def _(batch, budget, clip, data, model, noise, people, seed, visits):
    try:
        choice = explore.Choice(
            data=data.value,
            model=model.value,
            batch_size=int(batch.value),
            people=int(people.value),
            visits=int(visits.value),
            clip_norm=float(clip.value) or None,
            noise_multiplier=float(noise.value) / 100,
            seed=int(seed.value or 0),
            time_budget=float(budget.value),
        )
        scene = explore.observe(choice)
        problem = ""
    except ValueError as error:
        choice, scene, problem = None, None, str(error)
    mo.callout(f"{problem}.", kind="warn") if problem else None
    return choice, scene


@app.cell
def _(scene):
    mo.stop(scene is None)
    mo.vstack(
        [
            section(
                2,
                "What the people have",
                "These samples never leave their owners. Neither the server nor the attack is shown them. "
                "You are, to compare.",
            ),
            mo.Html(f'<div id="people">{parts.people(scene)}</div>'),
            section(
                3,
                "What the server saw",
                "Each person answers the model with a gradient, computed on the samples above. This is all "
                "that arrives. Every row is a mixture of the samples, with weights that nobody sends.",
            ),
            mo.Html(f'<div id="server">{parts.server(scene)}</div>'),
        ]
    )
    return


@app.cell
def _():
    press = mo.ui.run_button(label="Attack", kind="danger")
    mo.vstack(
        [
            section(
                4,
                "Attack",
                "The attack gets the model, the updates and nothing else. It replays what it found and "
                "compares. Where nothing else can explain the update, it holds a proof.",
            ),
            mo.Html(f'<div class="fp-actions" id="attack">{press}</div>'),
        ]
    )
    return (press,)


@app.cell
def _():
    # What the page shows of the job under way: its number, whether it is over, whether it is settled.
    shown, show = mo.state((0, True, True))
    return show, shown


@app.cell
def _(choice, desk, press):
    desk.cancel()
    job = desk.ask(choice) if press.value and choice is not None else None
    return (job,)


@app.cell
def _(job, shown):
    tick = mo.ui.refresh(default_interval="500ms")
    stop = mo.ui.run_button(label="Cancel", kind="neutral")
    under_way = job is not None and shown() != (job.number, True, True)
    cancel = stop if under_way and not job.over else ""
    mo.Html(
        f'<div class="fp-actions" id="stop">{cancel}<span hidden>{tick}</span></div>'
    ) if under_way else None
    return stop, tick


@app.cell
def _(desk, job, show, shown, stop, tick):
    _ = tick.value  # look twice a second
    if stop.value:
        desk.cancel()
    desk.look()
    state = shown() if job is None else (job.number, job.over, job.settled)
    if state != shown():
        show(state)
    mo.Html(parts.progress(job)) if job is not None and not job.settled else None
    return


@app.cell
def _(job, shown):
    over = job is not None and shown()[:2] == (job.number, True)
    mo.Html(f'<div id="outcome">{parts.outcome(job)}</div>') if over else None
    return


@app.cell
def _(job, scene, shown):
    mo.stop(scene is None)
    lines = parts.scene_limits(scene)
    if job is not None and shown()[:2] == (job.number, True):
        lines += parts.job_limits(job)
    mo.vstack(
        [
            section(
                5,
                "What no attack can pass, and what it costs",
                "An attack that fails proves nothing: a better one may come. A bound holds for all of them, "
                "under its assumptions. Attack once to see the least error and the price as well.",
            ),
            mo.Html(f'<div id="theory">{parts.theory(lines)}</div>'),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
