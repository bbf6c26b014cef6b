"""``python -m fedpriv`` is the same as ``fedpriv``."""

from fedpriv.cli import main

if __name__ == "__main__":
    main()
