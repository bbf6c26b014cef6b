"""``fedpriv explore``: the page to play with."""

from __future__ import annotations

import webbrowser

import click

from fedpriv.explorer import serve


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=serve.PORT,
    show_default=True,
    help="Of this machine's loopback address; 0 takes any free one.",
)
@click.option("--open/--no-browser", "open_browser", help="Open the page in the browser. By default: do not.")
def explore(port: int, open_browser: bool) -> None:
    """Play with data, models and defenses on a page, and attack.

    The page is served to this machine only (127.0.0.1) and works without a network. Its address holds a
    secret token: open it as it is printed. End with Ctrl-C.

    \b
    Examples:
      fedpriv explore                        prints the address
      fedpriv explore --open                 and opens it in the browser
      fedpriv explore --port 8000
    """

    def ready(address: str) -> None:
        click.echo(f"open {address}\nend with Ctrl-C")
        if open_browser:
            webbrowser.open(address)

    serve.serve(port, ready)
