# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs for another Python than the one that runs this collection: one text, to be read from standard input."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import ModuleType

_PROGRAM = """
import sys, types
package = types.ModuleType("program")
package.__path__ = []
sys.modules["program"] = package
for name, source in {sources!r}:
    module = types.ModuleType("program." + name)
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
module.main(sys.argv[1:])
"""


def program_of(modules: Sequence[ModuleType]) -> bytes:
    """The text of a program made of modules of one package, each after those that it imports.

    The last one has the function ``main``, which gets the arguments. They import the standard library and each
    other (``from .other import ...``), and nothing else. What runs the program needs no files of this collection.
    """
    sources = [
        (module.__name__.rpartition(".")[2], inspect.getsource(module)) for module in modules
    ]
    return _PROGRAM.format(sources=sources).encode()
