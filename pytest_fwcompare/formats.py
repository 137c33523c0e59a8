"""Working dtypes as values of the axis: how numbers are kept, how products are computed.

Read by every pytest run: imports neither NumPy nor a framework.
"""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """One value of the dtype axis.

    Attributes:
        name: as it is asked for: "mixed_float16".
        stored: dtype of parameters and inputs: "float32".
        computed: dtype of what is computed with them: "float16".
        bits: significant bits of `computed`, the leading one included.
        largest: largest finite number of `computed`.
        least: smallest positive number of `computed` that has all its bits.
    """

    name: str
    stored: str
    computed: str
    bits: int
    largest: float
    least: float

    @property
    def roundoff(self) -> float:
        """Half a unit in the last place of 1: the relative error of one correct rounding."""
        return 2.0**-self.bits

    @property
    def mixed(self) -> bool:
        """Parameters are kept in float32, most of what is computed is narrower."""
        return self.name.startswith("mixed_")

    @property
    def narrow(self) -> bool:
        """Sixteen bits a number."""
        return self.computed in ("float16", "bfloat16")

    @property
    def overflows(self) -> bool:
        """The range is so short that sound networks leave it: above 65504 for float16."""
        return self.computed == "float16"

    @property
    def graininess(self) -> float:
        """Half the distance of the smallest numbers: what rounding near zero may cost."""
        return self.least * self.roundoff


FORMATS = {
    made.name: made
    for made in (
        Format("float32", "float32", "float32", 24, (2 - 2**-23) * 2.0**127, 2.0**-126),
        Format("float64", "float64", "float64", 53, (2 - 2**-52) * 2.0**1023, 2.0**-1022),
        Format("float16", "float16", "float16", 11, 65504.0, 2.0**-14),
        Format("bfloat16", "bfloat16", "bfloat16", 8, (2 - 2**-7) * 2.0**127, 2.0**-126),
        Format("mixed_float16", "float32", "float16", 11, 65504.0, 2.0**-14),
        Format("mixed_bfloat16", "float32", "bfloat16", 8, (2 - 2**-7) * 2.0**127, 2.0**-126),
        Format("tf32", "float32", "tf32", 11, (2 - 2**-23) * 2.0**127, 2.0**-126),
    )
}
"""By name. `tf32` is float32 whose matrix products and convolutions round their operands to ten
bits behind the point, as NVIDIA GPUs do where one lets them (A100 architecture whitepaper)."""

DTYPES = tuple(FORMATS)


def format_of(dtype: str) -> Format:
    """The format of a working dtype; one that only a backend knows counts as float32."""
    return FORMATS.get(dtype, FORMATS["float32"])
