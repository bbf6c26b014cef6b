"""Real tables about people, with columns of both kinds, encoded as a model reads them."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

import torch
from torch import Tensor

from fedpriv.wire.table import Categorical, Cell, Continuous, TableSchema

_TITANIC = "datasets/tests/data/openml/id_40945/data-v1-dl-16826755.arff.gz"
_ANES = "datasets/anes96/anes96.csv"
_PARTY = ("strong D", "weak D", "indep. D", "independent", "indep. R", "weak R", "strong R")
_LEANING = (
    "very liberal",
    "liberal",
    "rather lib.",
    "moderate",
    "rather cons.",
    "conservative",
    "very cons.",
)
_SCHOOL = ("8 grades", "some high school", "high school", "some college", "college", "master", "PhD")


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """A table in its encoding.

    Parameters
    ----------
    schema : TableSchema
        The columns. Ranges, means and deviations are those of the whole table.
    inputs : Tensor of shape (n, schema.width), float32
    labels : Tensor of shape (n,), int64
    classes : tuple of str
        What the labels mean.
    """

    schema: TableSchema
    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def passengers() -> Table:
    """The passengers of the Titanic whose age, fare and port are known; the label says who survived.

    Class, sex, port, deck (the letter of the cabin), numbers of siblings or spouses and of parents or
    children aboard are categorical, age and fare continuous. Names are not read.

    Returns
    -------
    Table
        1043 rows, 8 columns, 33 numbers a row.

    Raises
    ------
    FileNotFoundError
        If this build of scikit-learn leaves its own test data out, among which the file lies.

    References
    ----------
    F. E. Harrell, T. Cason, "Titanic", OpenML data set 40945 (public), as shipped with scikit-learn.

    Examples
    --------
    >>> table = passengers()
    >>> table.schema.decode(table.inputs[:1])[0][:4]
    ('1st', 'female', 'S', 'B')
    """
    path = _inside("sklearn", _TITANIC, "scikit-learn")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("@data", 1)[1].strip().splitlines()
    rows: list[list[Cell]] = []
    labels = []
    for fields in csv.reader(lines):
        rank, survived, _, sex, age, siblings, parents, _, fare, cabin, port = fields[:11]
        if "?" not in (age, fare, port):
            deck = "unknown" if cabin == "?" else cabin[0]
            rows.append([{"1": "1st", "2": "2nd", "3": "3rd"}[rank], sex.strip("'"), port.strip("'"), deck])
            rows[-1] += [siblings, parents, float(age), float(fare)]
            labels.append(int(survived))
    names = ("class", "sex", "port", "deck", "siblings", "parents", "age", "fare")
    return _table(names, rows, labels, ("died", "survived"))


def voters() -> Table:
    """Answers to the American National Election Study of 1996; the label says for whom people meant to vote.

    Party, education, and where people see themselves and both candidates between liberal and conservative
    are categorical; age, income bracket (1 to 24), days a week with television news and the logarithm of the
    town's population are continuous.

    Returns
    -------
    Table
        944 rows, 9 columns, 39 numbers a row.

    Raises
    ------
    FileNotFoundError
        If the optional package statsmodels, which carries the file, is missing.

    References
    ----------
    The American National Election Studies, 1996, public domain, as shipped with statsmodels.
    """
    with _inside("statsmodels", _ANES, "statsmodels").open(encoding="utf-8") as file:
        records = list(csv.DictReader(file, delimiter="\t", quotechar="'"))
    rows: list[list[Cell]] = []
    for record in records:
        here = {name: float(value) for name, value in record.items()}
        leanings = [_LEANING[int(here[n]) - 1] for n in ("selfLR", "ClinLR", "DoleLR")]
        town = math.log(here["popul"] + 0.1)
        rows.append([_PARTY[int(here["PID"])], _SCHOOL[int(here["educ"]) - 1], *leanings])
        rows[-1] += [here["age"], here["income"], here["TVnews"], town]
    names = ("party", "school", "self", "Clinton", "Dole", "age", "income", "TV news", "log town")
    labels = [int(float(record["vote"])) for record in records]
    return _table(names, rows, labels, ("Clinton", "Dole"))


def _table(
    names: Sequence[str], rows: Sequence[Sequence[Cell]], labels: Sequence[int], classes: tuple[str, ...]
) -> Table:
    columns = [_column(name, cells) for name, cells in zip(names, zip(*rows, strict=True), strict=True)]
    schema = TableSchema(tuple(columns))
    return Table(schema=schema, inputs=schema.encode(rows), labels=torch.tensor(labels), classes=classes)


def _column(name: str, cells: Iterable[Cell]) -> Categorical | Continuous:
    """Text makes a categorical column, numbers a continuous one."""
    found = list(cells)
    numbers = [cell for cell in found if isinstance(cell, float)]
    if len(numbers) < len(found):
        return Categorical(name=name, values=tuple(sorted({str(cell) for cell in found})))
    low, high = min(numbers), max(numbers)
    return Continuous(name=name, low=low, high=high, mean=fmean(numbers), std=pstdev(numbers))


def _inside(module: str, place: str, package: str) -> Path:
    """A file that an installed package carries; the package itself is not imported."""
    spec = importlib.util.find_spec(module)
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0]) / place if folders else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"this table lies in a file of the package {package} ({place}), which is not there; "
            f"get it from PyPI with: pip install {package}"
        )
    return path
