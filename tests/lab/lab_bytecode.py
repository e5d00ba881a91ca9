# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep what a test host's Python compiles of an Ansible module.

Ansible sends each module as a zip of sources, and Python compiles all of them again for every
task: a third of what a task costs a host. The image loads this into the system's Python.
"""

from __future__ import annotations

import _imp
import marshal
import os
import zipimport
from importlib.machinery import SourcelessFileLoader
from importlib.util import MAGIC_NUMBER
from types import CodeType
from typing import Any

# Only root writes here, so that nobody runs what another user has compiled.
DIRECTORY = "/var/cache/lab-bytecode"
KEY = 0  # of a fast hash, which has to tell sources apart and no more
HEADER = MAGIC_NUMBER + bytes(12)  # of a .pyc file that is not compared with its source

importer: Any = zipimport
compile_source = importer._compile_source


def compile_once(path: str, source: bytes) -> CodeType | None:
    """The code of a source: as it was kept, else compiled, and kept where root runs it."""
    kept = f"{DIRECTORY}/{os.path.basename(path)}.{_imp.source_hash(KEY, source).hex()}"
    try:
        return SourcelessFileLoader("kept", kept).get_code("kept")
    except (OSError, ImportError):
        code: CodeType = compile_source(path, source)
    if os.geteuid() == 0:
        os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
        with open(f"{kept}.{os.getpid()}", "wb") as new:
            new.write(HEADER + marshal.dumps(code))
        os.replace(new.name, kept)
    return code


importer._compile_source = compile_once
