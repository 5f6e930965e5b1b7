"""Addresses as they may be shown and kept: without the passwords, tokens and signatures in them."""

import math
import re
from collections.abc import Mapping
from typing import Any

PASSWORD = re.compile(r"(://[^:/@\s]*):[^@/\s]*@")
WORDS = (
    r"x-amz-[a-z-]+|x-goog-[a-z-]+|awsaccesskeyid|sig|signature|password|"
    r"(?:[a-z_-]*[_-])?token|(?:(?:api|subscription)[_-]?)?key"
)
QUERY = re.compile(rf"(?<=[?&])({WORDS})=[^&#\s'\"]+", re.IGNORECASE)


def bare(text: str) -> str:
    """Any text with addresses in it, `***` for what opens them."""
    return QUERY.sub(r"\1=***", PASSWORD.sub(r"\1@", text)) if "://" in text or "/vsicurl" in text else text


def plain(document: Any) -> Any:
    """The same of all texts of a JSON document, and null for numbers that JSON has not: NaN and infinity."""
    if isinstance(document, Mapping):
        return {key: plain(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [plain(value) for value in document]
    if isinstance(document, float) and not math.isfinite(document):
        return None
    return bare(document) if isinstance(document, str) else document
