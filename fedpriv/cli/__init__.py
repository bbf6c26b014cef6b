"""The command line, ``fedpriv``. Nothing heavy is imported before a command needs it."""

from fedpriv.cli.app import main, run_script

__all__ = ["main", "run_script"]
