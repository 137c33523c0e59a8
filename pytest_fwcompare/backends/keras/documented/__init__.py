"""What Keras documents: layers of Keras, by their configuration, as described networks.

A described network is computed by the NumPy reference and by raw operations of TensorFlow, without
any code of Keras. The meaning of each option is that of https://keras.io/api/layers. Imports no
framework. What is not here has no formula to be held against, which is an answer, too.
"""

from pytest_fwcompare.backends.keras.documented import (  # noqa: F401 (they register formulas)
    plain,
    sequence,
    space,
)
from pytest_fwcompare.backends.keras.documented.base import (
    FORMULAS,
    Documented,
    Undocumented,
    documented,
)

__all__ = ["FORMULAS", "Documented", "Undocumented", "documented"]
