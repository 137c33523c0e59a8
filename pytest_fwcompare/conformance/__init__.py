"""Checks of a backend, layer by layer: `pytest --pyargs pytest_fwcompare.conformance`.

Which backends: `--fwcompare-frameworks` where given, else the environment variable
`FWCOMPARE_CONFORMANCE` ("torch,mine"), else every one that is installed.
"""
