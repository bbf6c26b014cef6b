"""Every demo once, with the seed of the documentation: what it concludes, and its CPU seconds.

Time budgets count CPU seconds here. The demo of Flower has a benchmark of its own (`flower`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from fedpriv.cli import scripts
from fedpriv.lab.study import Cell, Results

QUICK = ("averaged_clients", "batch", "pointers", "tutorial")


def _averaged_clients(result: dict[str, Any]) -> dict[str, Any]:
    kept = {name: result[name] for name in ("people", "images", "claimed", "certified")}
    return {**kept, "recovered_share": result["recovered"], "labels_share": result["labels_right"]}


def _batch(result: dict[str, Any]) -> dict[str, Any]:
    kept = {name: result[name] for name in ("batch", "claimed")}
    return {**kept, "recovered_share": result["recovered"], "labels_share": result["labels_right"]}


def _batch_images(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "people": result["head"]["found"],
        "worst_psnr": min(result["block by block"]["psnr"]),
        "best_psnr_of_the_usual_search": max(result["usual search"]["psnr"]),
    }


def _broken_defenses(result: dict[str, Any]) -> dict[str, Any]:
    return {f"{way}_psnr": [row[way]["median_psnr"] for row in result["defenses"]] for way in WAYS}


def _dp(result: dict[str, Any]) -> dict[str, Any]:
    return {"above_the_bound": sum(row["low"] > row["rero_bound"] for row in result["success"])}


def _fedavg(result: dict[str, Any]) -> dict[str, Any]:
    psnr = [[value["psnr"] for value in row.values() if isinstance(value, dict)] for row in result["rows"]]
    return {"psnr": psnr, "labels_right": [row["labels_right"] for row in result["rows"]]}


def _local_steps(result: dict[str, Any]) -> dict[str, Any]:
    kept = {"batch": result["batch"], "steps": max(row["steps"] for row in result["rows"])}
    return {**kept, "recovered_shares": [row["replay"]["recovered"] for row in result["rows"]]}


def _noise(result: dict[str, Any]) -> dict[str, Any]:
    rows = [row for row in result["levels"] if row["refused"] == 0]
    below = [row for row in rows if row["mse"] + 3 * row["standard_error"] < row["cramer_rao_bound"]]
    return {"below_the_bound": len(below), "efficiency": rows[0]["efficiency"]}


def _rounds(result: dict[str, Any]) -> dict[str, Any]:
    shares = [row["recovered"] for row in result["attempts"]]
    return {"batch": result["batch"], "width": result["width"], "recovered_shares": shares}


def _tabular(result: dict[str, Any]) -> dict[str, Any]:
    names = ("guess", "search", "softened", "TabLeak", "peeling")
    return {f"{name}_shares": [row[name] for row in result["sizes"].values()] for name in names}


def _tutorial(result: dict[str, Any]) -> dict[str, Any]:
    people = [result[name] for name in ("bob", "alice")]
    return {name: [row[name] for row in people] for name in ("visits_used", "certified")}


WAYS = ("plain", "adaptive")
CONCLUSIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "pointers": lambda result: {"bytes_from_bob": [row["from_bob"] for row in result["rows"]]},
    "tutorial": _tutorial,
    "one_image": lambda result: {"psnr": [result[name]["psnr"] for name in ("digit", "face")]},
    "averaging": lambda result: {"certified": result["secure_aggregation"]["carol"]["certified"]},
    "batch": _batch,
    "averaged_clients": _averaged_clients,
    "activations": lambda result: {
        "recovered_shares": [row["recovered"] for row in result["activations"].values()]
    },
    "rounds": _rounds,
    "local_steps": _local_steps,
    "layers": lambda result: {"psnr": [result[name]["psnr"] for name in ("face", "photograph")]},
    "text": lambda result: {"tokens": result["tokens"], "certified": result["certified"]},
    "tabular": _tabular,
    "noise": _noise,
    "dp": _dp,
    "broken_defenses": _broken_defenses,
    "fedavg": _fedavg,
    "matrix": lambda result: {
        "rows": len(result["rows"]),
        "leak_psnr": [row.leak for row in result["rows"]],
    },
    "batch_images": _batch_images,
    "optimise": lambda result: {
        "psnr": [row["psnr"]["result"] for row in result["pictures"].values()],
        "usual_psnr": [row["psnr"]["usual search"] for row in result["pictures"].values()],
    },
    "syft_peers": lambda result: {"copy": result["copy"]["status"]},
}
"""What is kept of each demo's result, in an order that has the short ones first."""


def concluded(name: str) -> dict[str, Any]:
    """Run one demo, and keep what it concludes."""
    demo = scripts.load(scripts.find("demos")[name])
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(time, "perf_counter", time.process_time),
    ):
        return CONCLUSIONS[name](demo.main(Path(folder), seed=0))


def cells() -> list[Cell]:
    """Every demo."""
    return [Cell(name, partial(concluded, name), quick=name in QUICK) for name in CONCLUSIONS]


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    batch, pooled, rounds = (results[name] for name in ("batch", "averaged_clients", "rounds"))
    found, pooled_found = (round(r["recovered_share"] * r["claimed"]) for r in (batch, pooled))
    once, twice, *_ = rounds["recovered_shares"]
    said = [f"{found} digits and their labels out of one gradient"]
    if pooled_found == pooled["images"]:
        said.append(f"one averaged gradient: all {pooled_found} of their digits")
    if once < 0.1 and twice == 1:  # what a search finds by luck, without a proof
        said.append(
            f"{rounds['batch']} digits that one gradient does not determine,"
            " and that a second visit gives back"
        )
    return {"README.md": said, "docs/course/04_batch.md": [f"{found} digits out of one gradient"]}
