"""What a check of `embery doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One of them: "ok", "note" (works, with less) or "failed" (Embery will not run)."""

    name: str
    status: Literal["ok", "note", "failed"]
    found: str
    advice: str = ""
