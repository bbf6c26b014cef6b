"""Exact attacks: no optimization over images, no prior, float precision."""
