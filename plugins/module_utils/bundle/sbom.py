# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bill of materials of a bundle, in CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/); no clock and no random number is in it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from .components import Component
from .vulnerabilities import Vulnerability

_NAMESPACE = uuid.UUID("6f1c3a34-4a0e-5d0c-9b39-0f9a1c4c7c11")


def bill_of_materials(
    components: Sequence[Component],
    vulnerabilities: Sequence[Vulnerability],
    collection: str,
    epoch: int,
) -> bytes:
    """Give the document; the same components give the same bytes. A component has its purl and content as its reference."""
    listed = sorted(components, key=lambda one: (one.content, one.file))
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": "onprem.deepseek",
                "group": "onprem",
                "name": "deepseek",
                "version": collection,
                "licenses": [{"expression": "GPL-3.0-or-later"}],
            },
        },
        "components": [_component(one) for one in listed],
        "vulnerabilities": [
            {
                "bom-ref": one.identifier,
                "id": one.identifier,
                "source": {"name": "OSV", "url": "https://osv.dev"},
                "description": one.summary,
                "affects": [{"ref": _reference(item)} for item in one.affected],
            }
            for one in vulnerabilities
        ],
    }
    text = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMESPACE, text)}"
    return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode("ascii")


def _reference(component: Component) -> str:
    return f"{component.content}/{component.file}"


def _component(component: Component) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": _reference(component),
        "name": component.name,
        "version": component.version,
        "purl": component.purl,
        "hashes": [{"alg": "SHA-256", "content": component.sha256}],
        "properties": [{"name": "onprem.deepseek:file", "value": _reference(component)}],
    }
    if component.expression:
        found["licenses"] = [{"expression": component.expression}]
    elif component.licenses:
        found["licenses"] = [{"license": {"name": name}} for name in component.licenses]
    return found
