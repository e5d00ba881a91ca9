# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts and directories that a host asks for releases and artifacts; none of them is trusted."""

from __future__ import annotations

import functools
import http.client
import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote, urlsplit

from ..artifacts.hashing import sha256_hex
from ..artifacts.names import ArtifactError
from .model import METADATA_LIMIT, Credentials, Fetch, Get, ReplicaError, SourceError, T
from .mounted import mounted_directory, read_mounted


def https_fetcher(credentials: Credentials, timeout: float = 5.0) -> Fetch:
    """Fetch small files over mutual TLS 1.3. No proxies, no redirects: sources are named hosts."""
    for path in (credentials.ca, credentials.certificate, credentials.private_key):
        if not os.path.isfile(path):
            raise ReplicaError(
                f"{path} is missing on this host, so no source can be asked. Run role onprem.deepseek.tls on it first."
            )
    context = ssl.create_default_context(cafile=credentials.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(credentials.certificate, credentials.private_key)

    def fetch(url: str, limit: int) -> bytes:
        parts = urlsplit(url)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=timeout, context=context
        )
        try:
            connection.request("GET", parts.path)
            response = connection.getresponse()
            if response.status != 200:
                raise SourceError(f"answered {response.status} {response.reason} to {parts.path}")
            data = response.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(f"cannot be reached: {error}", dead=True) from error
        finally:
            connection.close()
        if len(data) > limit:
            raise SourceError(f"sent more than {limit} bytes for {parts.path}")
        return data

    return fetch


class Sources:
    """The hosts and directories to ask, in order. One that cannot be reached is asked once, not once per file."""

    def __init__(self, urls: Sequence[str], fetch: Fetch) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        for url in self._urls:
            if mounted_directory(url) is not None:
                continue
            if urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
                raise ReplicaError(f"source {url!r} is not an https or file URL")
        self._fetch = fetch
        self.dead: set[str] = set()
        self.problems: dict[str, str] = {}

    def results(self, path: str, read: Callable[[Get], T]) -> Iterator[tuple[str, T]]:
        """Yield (source, result) of *read* for each source where it succeeds; note why others fail."""
        for url in self._urls:
            if url in self.dead:
                continue
            try:
                value = read(functools.partial(self._get, url))
            except SourceError as error:
                self.problems[url] = str(error)
                if error.dead:
                    self.dead.add(url)
            except ArtifactError as error:
                self.problems[url] = f"{path}: {error}"
            else:
                yield url, value

    def _get(self, url: str, path: str) -> bytes:
        directory = mounted_directory(url)
        if directory is not None:
            return read_mounted(directory, path)
        return self._fetch(f"{url}/{quote(path)}", METADATA_LIMIT)

    def first(self, path: str, check: Callable[[bytes], object]) -> bytes:
        """The first copy of *path* that passes *check*."""

        def read(get: Get) -> bytes:
            data = get(path)
            check(data)
            return data

        for _unused_url, data in self.results(path, read):
            return data
        raise ReplicaError(self.failure(path))

    def failure(self, path: str) -> str:
        reasons = "; ".join(f"{url}: {reason}" for url, reason in sorted(self.problems.items()))
        return (
            f"No source has an acceptable copy of {path}: {reasons or 'no sources are configured'}. "
            "Check that at least one storage host is up, or the store mounted, and holds the release."
        )


def replicas(sources: Sources, model: str, version: str, digest: str) -> list[str]:
    """The sources that have this very release. A source shows a release only when it holds all of it."""
    path = f"releases/{quote(model)}/{quote(version)}.json"

    def read(get: Get) -> None:
        found = sha256_hex(get(path))
        if found != digest:
            raise ArtifactError(f"it has SHA-256 {found}, expected {digest}")

    return [url for url, _unused in sources.results(path, read)]
