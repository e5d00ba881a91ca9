# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an inference host has of the release: the graph of its precision, or none."""

from __future__ import annotations

import json
from typing import Any

from conftest import MODEL, STORE, VERSION
from lab_hosts import hosts, name_of

# Not the release host, which keeps what it has published.
testinfra_hosts = hosts("inference-2", "inference-3")

GRAPHS = {"inference-2": ["int8"], "inference-3": []}  # the scenario's inventory


def test_the_host_has_the_graph_of_its_precision_alone(host: Any) -> None:
    release = json.loads(host.file(f"{STORE}/releases/{MODEL}/{VERSION}.json").content_string)
    assert sorted(release["graphs"]) == ["fp32", "int8"]
    found = host.run(f"find {STORE}/graph/{MODEL} -name decoder.onnx.data").stdout.split()
    wanted = [release["graphs"][precision] for precision in GRAPHS[name_of(host)]]
    assert [path.split("/")[-2] for path in found] == wanted
