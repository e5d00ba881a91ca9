# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small packages, wheels and bundles, made as real ones are."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.create import (
    Made,
    Plan,
    Source,
    create,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.layout import (
    MANIFEST_SIGNATURE,
    SBOM,
    VERIFIER,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.program import verifier_bytes

MODULE_UTILS = Path(__file__).resolve().parents[5] / "plugins/module_utils"
KEY = ec.derive_private_key(7, ec.SECP256R1())
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
MIB = 1024 * 1024


def deb(
    directory: Path, name: str, version: str = "1.0", depends: str = "", text: str = ""
) -> Path:
    tree = directory / f".{name}"
    (tree / "DEBIAN").mkdir(parents=True)
    document = tree / "usr/share/doc" / name
    document.mkdir(parents=True)
    control = [
        f"Package: {name}",
        f"Version: {version}",
        "Architecture: all",
        "Maintainer: Tests <tests@example.org>",
        "Source: source-of-it (0.9)",
        *([f"Depends: {depends}"] if depends else []),
        "Description: a package of the tests",
    ]
    (tree / "DEBIAN/control").write_text("\n".join(control) + "\n")
    (document / "copyright").write_text("Files: *\nLicense: MIT\n\nLicense: BSD-3-clause\n" + text)
    path = directory / f"{name}_{version.replace(':', '%3a')}_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(path)],
        check=True,
        capture_output=True,
    )
    return path


def wheel(directory: Path, name: str, version: str = "1.0", metadata: str = "") -> Path:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{path},sha256="
        + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        + f",{len(text)}"
        for path, text in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(zipfile.ZipInfo(inside), text)
    return path


def trees(root: Path) -> dict[str, Source]:
    """A content of each kind: not packages, which other tests have, but files of their names."""
    sizes = {"apt-bookworm": 2 * MIB + 5, "wheels-none": MIB + 3, "collection": 900, "docs": 10}
    kinds = {"apt-bookworm": ("apt", ("haproxy", "nginx"), "bookworm")}
    kinds["wheels-none"] = ("wheels", ("3.11",), "none")
    found = {}
    for name, size in sizes.items():
        directory = root / name / "inner"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "a.bin").write_bytes(hashlib.sha256(name.encode()).digest() * (size // 32 + 1))
        (directory.parent / "b.txt").write_text(name)
        kind, provides, variant = kinds.get(name, (name, (), ""))
        found[name] = Source(kind, str(root / name), provides, variant)
    return found


def plan(root: Path, **changes: object) -> Plan:
    settings = {
        "directory": str(root / "bundle"),
        "sources": trees(root / "trees"),
        "small": {SBOM: b"{}\n", VERIFIER: verifier_bytes(str(MODULE_UTILS))},
        "collection": "0.1.0",
        "architecture": "x86_64",
        "epoch": 1000,
        "part_size": MIB,
        "today": 20261128,
    }
    return Plan(**{**settings, **changes})  # type: ignore[arg-type]


def sign(directory: Path) -> None:
    data = (directory / "manifest.json").read_bytes()
    signature = base64.b64encode(KEY.sign(data, ec.ECDSA(hashes.SHA256()))) + b"\n"
    (directory / MANIFEST_SIGNATURE).write_bytes(signature)


def signed(root: Path, **changes: object) -> tuple[Path, Made]:
    made = create(plan(root, **changes))
    sign(root / "bundle")
    return root / "bundle", made


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(path, directory): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
