"""Thin adapters, one package per host; none imports another (Auto3DSeg's may import MONAI's)."""
