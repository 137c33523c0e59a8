"""Sides in their own process, interpreter or host, over execnet.

The parent's half is `process`, `pool`, `remote` and `side`; the worker's is `bootstrap`, `loading`
and `server`, which need NumPy, the framework and this package, but neither pytest nor Hypothesis.
`wire` and `sharing` are common to both. What runs apart is decided in `opening`.
"""
