"""Defenses as words on the command line: ``NAME`` or ``NAME:key=value,key=value``."""

from __future__ import annotations

import ast
import difflib
import inspect
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from fedpriv.defenses.pipeline import AnyDefense


def named_defense(spec: str) -> AnyDefense:
    """Make the defense that `spec` names, a class of `fedpriv.defenses` with its parameters.

    Raises
    ------
    ValueError
        If there is no such defense or parameter, or the value is out of range.

    Examples
    --------
    >>> named_defense("GaussianNoise:clip_norm=1,noise_multiplier=0.5").noise_multiplier
    0.5
    >>> named_defense("Gauss")
    Traceback (most recent call last):
    ValueError: --defense Gauss: there is no such defense; did you mean GaussianNoise?
    """
    name, colon, given = spec.partition(":")
    kinds = _kinds()
    if name not in kinds:
        close = difflib.get_close_matches(name, kinds, n=1, cutoff=0.4)
        known = f"did you mean {close[0]}?" if close else f"there are {', '.join(kinds)}"
        raise ValueError(f"--defense {spec}: there is no such defense; {known}")
    kind = kinds[name]
    parameters = {n: p for n, p in inspect.signature(kind).parameters.items() if n != "generator"}
    values: dict[str, Any] = {}
    for part in given.split(",") if colon else ():
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or key not in parameters:
            takes = ", ".join(parameters) or "nothing"
            raise ValueError(
                f"--defense {spec}: expected KEY=VALUE after the colon, {name} takes {takes}, got {part!r}"
            )
        values[key] = value if parameters[key].annotation == "str" else _value(value)
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in values]
    if missing:
        raise ValueError(f"--defense {spec}: {name} needs {missing[0]}, as in {name}:{missing[0]}=1")
    try:
        return cast("AnyDefense", kind(**values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"--defense {spec}: {error}") from error


def _kinds() -> dict[str, type]:
    """Every defense that can be put into a trainer's list."""
    from fedpriv import defenses

    mechanisms = (defenses.Defense, defenses.Aggregator, defenses.DataDefense, defenses.StepDefense)
    public = {name: getattr(defenses, name) for name in defenses.__all__}
    return {
        name: kind
        for name, kind in public.items()
        if inspect.isclass(kind) and issubclass(kind, mechanisms) and not inspect.isabstract(kind)
    }


def _value(text: str) -> Any:
    """A number, True, False or None; anything else is a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
