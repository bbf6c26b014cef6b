"""One image, layer by layer: exact inputs of every layer, or the name of the layer where they are lost."""

from attacks.exact.layers.attack import LayerByLayerInversion
from attacks.exact.layers.backwards import LayerReport, Track, first_loss, go_back
from attacks.exact.layers.peeling import PeeledMap, peel_patches
from attacks.exact.layers.system import SegmentEquations, Solution

__all__ = [
    "LayerByLayerInversion",
    "LayerReport",
    "PeeledMap",
    "SegmentEquations",
    "Solution",
    "Track",
    "first_loss",
    "go_back",
    "peel_patches",
]
