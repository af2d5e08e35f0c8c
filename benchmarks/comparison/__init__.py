"""The machinery of ``benchmarks/paper.py`` and ``benchmarks/ranking.py``."""
