# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``pieces.meta4``: the hash of each piece of each file, for downloads from several sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from .hashing import PIECE_SIZE, FileHash, sha256_hex
from .manifest import FileEntry, Manifest
from .names import MANIFEST, PIECES, ArtifactError, check_digest, check_relative_path

METALINK_NAMESPACE = "urn:ietf:params:xml:ns:metalink"


def metalink_bytes(files: Mapping[str, FileHash], piece_size: int = PIECE_SIZE) -> bytes:
    """Write ``pieces.meta4`` with URLs relative to the artifact's directory: it must not know any host."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<metalink xmlns="{METALINK_NAMESPACE}">']
    for path in sorted(files):
        hashed = files[path]
        lines.append(f"  <file name={quoteattr(path)}>")
        lines.append(f"    <size>{hashed.size}</size>")
        lines.append(f'    <hash type="sha-256">{hashed.sha256}</hash>')
        if hashed.pieces:
            lines.append(f'    <pieces length="{piece_size}" type="sha-256">')
            lines.extend(f"      <hash>{piece}</hash>" for piece in hashed.pieces)
            lines.append("    </pieces>")
        lines.append(f"    <url>{escape(quote(path))}</url>")
        lines.append("  </file>")
    lines.append("</metalink>")
    return ("\n".join(lines) + "\n").encode("utf-8")


def _tag(name: str) -> str:
    return f"{{{METALINK_NAMESPACE}}}{name}"


def parse_metalink(data: bytes) -> dict[str, FileHash]:
    """Read what :func:`metalink_bytes` wrote."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ArtifactError(f"{PIECES} contains a document type definition")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ArtifactError(f"{PIECES} is not XML: {error}") from error
    files: dict[str, FileHash] = {}
    for element in root.findall(_tag("file")):
        path = check_relative_path(element.get("name"))
        size = element.findtext(_tag("size"), "")
        if not size.isascii() or not size.isdigit():
            raise ArtifactError(f"{PIECES}: file {path} has no size")
        pieces = tuple(
            check_digest(piece.text, f"{PIECES}: piece of {path}")
            for piece in element.findall("{}/{}".format(_tag("pieces"), _tag("hash")))
        )
        whole = check_digest(element.findtext(_tag("hash")), f"{PIECES}: hash of {path}")
        files[path] = FileHash(int(size), whole, pieces)
    return files


def check_metalink(data: bytes, manifest: Manifest) -> dict[str, FileHash]:
    """Refuse a Metalink that is not the one the manifest pins or that describes other files."""
    if sha256_hex(data) != manifest.pieces.sha256 or len(data) != manifest.pieces.size:
        raise ArtifactError(f"{PIECES} is not the one that {MANIFEST} pins")
    files = parse_metalink(data)
    described = {path: FileEntry(entry.size, entry.sha256) for path, entry in files.items()}
    if described != dict(manifest.files):
        raise ArtifactError(f"{PIECES} and {MANIFEST} describe different files")
    return files


def expand_metalink(
    files: Mapping[str, FileHash], directory_urls: Sequence[str], piece_size: int = PIECE_SIZE
) -> bytes:
    """The same Metalink with one absolute URL per source for each file, as a downloader needs it."""
    root = ElementTree.Element("metalink", {"xmlns": METALINK_NAMESPACE})
    for path in sorted(files):
        hashed = files[path]
        element = ElementTree.SubElement(root, "file", {"name": path})
        ElementTree.SubElement(element, "size").text = str(hashed.size)
        ElementTree.SubElement(element, "hash", {"type": "sha-256"}).text = hashed.sha256
        if hashed.pieces:
            pieces = ElementTree.SubElement(
                element, "pieces", {"length": str(piece_size), "type": "sha-256"}
            )
            for piece in hashed.pieces:
                ElementTree.SubElement(pieces, "hash").text = piece
        for base in directory_urls:
            ElementTree.SubElement(element, "url").text = "{}/{}".format(
                base.rstrip("/"), quote(path)
            )
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content
