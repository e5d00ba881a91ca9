# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The site that all tests of the gateway share, and a gateway for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gateway_process import Gateway, Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("gw"))
    yield made
    for worker in made.workers:
        worker.close()


@pytest.fixture
def gateway(site: Site, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A process for each test, so that what one counts is nothing to the next."""
    for worker in site.workers:
        worker.reset()
    running = site.gateway(getattr(request, "param", "plain"))
    (running.directory / "shares.map").write_text("")
    (running.directory / "servers").unlink(missing_ok=True)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        (running.directory / "log").unlink()
