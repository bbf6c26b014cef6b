"""Objects that the user names on the command line as ``module:name``, the only code of others that is run."""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv import losses

if TYPE_CHECKING:
    from torch import nn

    from fedpriv.wire.observation import LossFn


def named_object(spec: str, option: str) -> Any:
    """Import what ``module:name`` names; the module may lie in the current folder.

    Examples
    --------
    >>> named_object("fedpriv.losses:squared_error", "--loss").__name__
    'squared_error'
    """
    module_name, colon, name = spec.partition(":")
    if not (colon and module_name and name):
        before, dot, last = spec.rpartition(".")
        meant = f"; did you mean {before}:{last}?" if dot and before and last and not colon else ""
        raise ValueError(f"{option} must be MODULE:NAME, such as mymodels:make_net, got {spec!r}{meant}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"{option} {spec}: the module cannot be imported ({error}); start where it lies"
        ) from error
    except Exception as error:
        raise ValueError(f"{option} {spec}: the module raised {type(error).__name__}: {error}") from error
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        meant = _nearest(name, vars(module), f"{module_name}:")
        raise ValueError(f"{option} {spec}: the module has no {name!r}{meant}") from error


def named_model(spec: str) -> nn.Module:
    """The model that ``module:factory`` makes; a factory is a class or a function without arguments."""
    from torch import nn

    found = named_object(spec, "--model")
    if isinstance(found, nn.Module):
        return found
    try:
        model = found()
    except Exception as error:
        raise ValueError(f"--model {spec}: calling it raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"--model {spec} must give a torch.nn.Module, got {type(model).__name__}")
    return model


def named_loss(spec: str) -> LossFn:
    """A loss by its name in `fedpriv.losses.NAMED`, or as ``module:function``."""
    if spec in losses.NAMED:
        return losses.NAMED[spec]
    if ":" not in spec:
        raise ValueError(
            f"--loss must be one of {sorted(losses.NAMED)} or MODULE:FUNCTION, got {spec!r}"
            f"{_nearest(spec, losses.NAMED)}"
        )
    found = named_object(spec, "--loss")
    if not callable(found):
        raise ValueError(
            f"--loss {spec} must be callable as loss_fn(outputs, targets), got {type(found).__name__}"
        )
    return found  # type: ignore[no-any-return]


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
