"""Text that can stand in XML. Over any other, the library that draws would end the process."""

from __future__ import annotations

import re
from typing import Any

FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What is no Char of XML 1.0, section 2.2."""


def plain(value: Any) -> Any:
    """The same with characters that no XML may hold shown as escapes, wherever there is text."""
    if isinstance(value, str):
        return FORBIDDEN.sub(lambda found: ascii(found[0])[1:-1], value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
