"""Momentum Contrast (MoCo v1 and v2) in TensorFlow 2.15."""

__version__ = "0.1.0"
