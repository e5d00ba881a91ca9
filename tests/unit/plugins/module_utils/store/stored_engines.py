# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An engine that is stored at a source, and a host that wants it."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
from release_host import SMALL, Signer, overwrite, signer
from source_hosts import Site, site

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.build import describe
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.files import list_directory
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import (
    hash_file,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.manifest import (
    canonical_json,
    parse_manifest,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import (
    RESERVED,
    artifact_path,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.release import Release
from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import (
    run_command,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store import engines as engine
from ansible_collections.onprem.deepseek.plugins.module_utils.store.sources import (
    https_fetcher,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import (
    read_manifest,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.writer import (
    ArtifactWriter,
)

__all__ = ["signer", "site"]


def write_build(directory: Path, release: Release, store: str, **key: object) -> Path:
    """What a build of an engine leaves behind."""
    graph = artifact_path(store, "graph", "tiny", release.graphs["fp32"])
    files = read_manifest(graph, release.graphs["fp32"]).files
    directory.mkdir()
    document = {
        "schema": 1,
        "graph": {"decoder.onnx": files["decoder.onnx"].sha256},
        "tensorrt": {"flavour": "tensorrt_rtx", "version": "1.7.1.116"},
        **key,
    }
    (directory / "key.json").write_bytes(canonical_json(document))
    (directory / "engine.plan").write_bytes(random.Random(2).randbytes(SMALL))
    for name in ("golden.json", "inspector.json", "build.log"):
        (directory / name).write_text("{}")
    return directory


@dataclasses.dataclass
class Engines:
    """An engine that is stored at one source, and a host that wants it."""

    site: Site
    build: engine.Build
    key: str

    def source(self, number: int) -> Path:
        return self.site.source(number) / "engine" / "tiny" / self.key

    @property
    def here(self) -> Path:
        return self.site.root / "here" / "engine" / "tiny" / self.key

    def request(self, **change: Any) -> engine.Request:
        wanted = engine.Wanted("tiny", self.key, self.build.graph, self.site.signer.pem)
        request = engine.Request(str(self.site.root / "here"), wanted, self.site.request().sources)
        return dataclasses.replace(request, **change)

    def hold(self, check_mode: bool = False, **change: Any) -> engine.Held:
        credentials = self.site.credentials()
        fetch = https_fetcher(credentials, 2)
        return engine.ensure_engine(
            self.request(**change), fetch, run_command, credentials, check_mode
        )

    def wanted(self, **change: Any) -> engine.Wanted:
        return dataclasses.replace(self.request().wanted, **change)

    def forge(self, number: int, signer: Signer | None = None) -> None:
        """Change the plan at a source, and make metadata that fits, signed or not."""
        directory = self.source(number)
        files = {path: hash_file(str(directory / path)) for path in self.forged(directory)}
        old = parse_manifest((directory / "manifest.json").read_bytes())
        manifest, pieces = describe(old.kind, old.name, files, parents=old.parents)
        for name, data in (("manifest.json", manifest.to_bytes()), ("pieces.meta4", pieces)):
            (directory / name).chmod(0o644)
            (directory / name).write_bytes(data)
        if signer is not None:
            (directory / "model.sig").unlink()
            signer.sign_directory(str(directory))

    def forged(self, directory: Path) -> list[str]:
        overwrite(directory / "engine.plan", 5, b"evil")
        return [path for path in list_directory(str(directory)) if path not in RESERVED]


@pytest.fixture
def engines(site: Site) -> Engines:
    writer = ArtifactWriter(str(site.source(0)), "tiny", site.signer.pem)
    directory = write_build(site.root / "build", site.release, writer.store)
    build = engine.Build(writer, str(directory), site.release.graphs["fp32"])
    stored = engine.store_engine(build, site.signer.sign_directory)
    assert stored.changed
    return Engines(site, build, stored.key)
