# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which hosts look at a host while its packet filter changes."""

from __future__ import annotations

from collections.abc import Sequence


def witnesses(hosts: Sequence[str], host: str, count: int) -> list[str]:
    """Give *count* of the other hosts, beginning with the next one, so that each looks at as many; all of them where there are fewer."""
    place = hosts.index(host) + 1
    return [*hosts[place:], *hosts[: place - 1]][:count]
