# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verifier as one file that any Python runs: the modules that it is made of, and nothing else."""

from __future__ import annotations

import io
import os
import zipfile

from ..common.import_closure import import_closure

_PACKAGE = "bundle_verifier"
_MAIN = f"import sys\nfrom {_PACKAGE}.bundle.verify import main\n\nsys.exit(main())\n"


def verifier_bytes(module_utils: str) -> bytes:
    """A zip application of ``bundle.verify`` in the directory *module_utils*; the same sources give the same bytes.

    Raises ClosureError where a source is missing, and OSError.
    """
    files = {"__main__.py": _MAIN.encode(), f"{_PACKAGE}/__init__.py": b""}
    for path in import_closure(module_utils, "bundle.verify"):
        with open(os.path.join(module_utils, path), "rb") as stream:
            files[f"{_PACKAGE}/{path}"] = stream.read()
        files[f"{_PACKAGE}/{os.path.dirname(path)}/__init__.py"] = b""
    target = io.BytesIO()
    # Not compressed: the bytes would be those of one version of zlib.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[path])
    return target.getvalue()
