"""Our own front for convolutional networks: exact values first, then the block below them alone."""

from attacks.matching.blocks.attack import BlockwiseInversion
from attacks.matching.blocks.block import Block, Cut
from attacks.matching.blocks.linear_head import HeadFeatures, head_features
from attacks.matching.blocks.smooth import Weights

__all__ = ["Block", "BlockwiseInversion", "Cut", "HeadFeatures", "Weights", "head_features"]
