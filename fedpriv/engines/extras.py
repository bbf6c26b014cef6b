"""Optional engines: say which install brings them, and which versions they were written for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping


def require(engine: str, packages: Mapping[str, str]) -> None:
    """Raise unless every package is installed at its tested version.

    Parameters
    ----------
    engine : str
        Name of the engine and of the extra that brings it.
    packages : mapping of str to str
        Distribution name to the one version that fedpriv is tested with: these packages change their
        interfaces from release to release.

    Raises
    ------
    ImportError
        One sentence that names the ``pip install``.

    Examples
    --------
    >>> require("local", {"torch": importlib.metadata.version("torch")})
    """
    install = f"pip install fedpriv[{engine}]"
    for package, wanted in packages.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ImportError(
                f"the {engine} engine needs {package} {wanted}, which is not installed; get it with: "
                f"{install}"
            ) from None
        if found != wanted:
            raise ImportError(
                f"the {engine} engine needs {package} {wanted}, got {found}; get the version that fits with: "
                f"{install}"
            )
