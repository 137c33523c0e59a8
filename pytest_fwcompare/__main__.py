"""`python -m pytest_fwcompare`: see `cli`."""

from __future__ import annotations

from pytest_fwcompare.cli import main

raise SystemExit(main())
