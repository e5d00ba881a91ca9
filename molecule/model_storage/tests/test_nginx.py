# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The web server of the store: where it listens, as whom it runs, and where it logs."""

from __future__ import annotations

from typing import Any

from conftest import PORT, SERVERS, STORAGE
from lab_hosts import HOST_CERTIFICATE, ask, hosts, name_of, wait_for

testinfra_hosts = hosts(*STORAGE)

LOG = "/var/log/nginx/access.log"


def test_it_listens_on_one_address_only(host: Any) -> None:
    listening = host.check_output("ss --no-header --listening --tcp --numeric --processes")
    addresses = [line.split()[3] for line in listening.splitlines() if "nginx" in line]
    assert addresses == [f"{SERVERS[name_of(host)]}:{PORT}"]


def test_it_is_never_root(host: Any) -> None:
    users = host.check_output("ps --no-headers -C nginx -o user:32=").split()
    assert {*users} == {"www-data"}


def test_systemd_calls_the_unit_tight(host: Any) -> None:
    host.run_expect([0], "systemd-analyze security --no-pager --threshold=20 nginx.service")


def test_it_goes_on_in_a_new_log_after_a_rotation(host: Any) -> None:
    """By the steps of logrotate."""
    host.run_expect([0], f"mv {LOG} {LOG}.1")
    host.run_expect([0], f"install --owner=www-data --group=adm --mode=0640 /dev/null {LOG}")
    host.run_expect([0], "invoke-rc.d nginx rotate")
    path = "/after-rotation"
    answer = ask(host, SERVERS[name_of(host)], path, port=PORT, certificate=HOST_CERTIFICATE)
    assert answer.status == 404
    wait_for(lambda: host.file(LOG).content_string, lambda log: path in log)
