"""Sides in their own process, interpreter or host, over execnet.

The parent's half is `process`, `pool`, `remote`; the worker's half is `bootstrap` and `server`,
which need NumPy, the framework and this package, but neither pytest nor Hypothesis. `wire` and
`sharing` are common to both.
"""
