"""What the console scripts share: how an error becomes one clear line and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable

from deepseek_serving.errors import ServingError


def run(program: str, action: Callable[[], None], *, failure: int = 1) -> int:
    """Run `action`; a ServingError is printed as one line and gives exit status `failure`."""
    try:
        action()
    except ServingError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return failure
    return 0
