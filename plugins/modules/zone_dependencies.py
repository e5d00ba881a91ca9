#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zone_dependencies
short_description: Where this host is set up to ask for names and packages
version_added: "0.1.0"
description:
  - Returns the addresses and ports of the host's name servers, and of apt's package indexes or the proxies that apt uses for them, so
    that they can be compared with what the zones let through.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Does the same in check mode, since it changes nothing.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
options: {}
requirements:
  - Debian
"""

EXAMPLES = r"""
- name: Read where this host asks for names and packages
  onprem.deepseek.zone_dependencies:
  register: asked
"""

RETURN = r"""
dependencies:
  description: Connections, each with C(what) (where it is set up), C(address), C(protocol) and C(port).
  type: list
  elements: dict
  returned: success
  sample: [{what: a name server of /etc/resolv.conf, address: 192.0.2.2, protocol: udp, port: 53}]
unresolved:
  description: Where a name is set up that has no address, as seen from this host within five seconds.
  type: list
  elements: str
  returned: success
"""

import subprocess

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.dependencies import dependencies


def ask(argv):
    try:
        done = subprocess.run(
            argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 1, ""
    return done.returncode, done.stdout.decode("utf-8", "replace")


def main():
    module = HostModule(argument_spec={}, supports_check_mode=True)
    found, unresolved = dependencies(ask)
    module.exit_json(changed=False, dependencies=found, unresolved=unresolved)


if __name__ == "__main__":
    main()
