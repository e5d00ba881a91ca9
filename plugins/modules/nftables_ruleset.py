#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nftables_ruleset
short_description: Load a table of nftables, and keep it only if the host can still be reached
version_added: "0.1.0"
description:
  - Replaces one table of family C(inet) in one transaction. Tables of others are not touched, and counters of the same name go on
    counting.
  - Before the table is loaded, a timer on the host is armed that restores what was before. It is stopped only after a I(new) SSH
    connection has been made, so a host that is cut off, or whose controller dies, comes back by itself.
  - The file from which the host loads the table when it starts is written last.
  - What is loaded is compared with what is wanted as the host's own C(nft) lists both, so a rule that somebody changed by hand is a
    difference, and shown with C(--diff).
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Compares, asks C(nft) whether it would take the ruleset, and changes nothing.
    support: full
  diff_mode:
    description: Shows the table as loaded and as wanted, without the values of counters.
    support: full
options:
  table:
    description: Name of the table.
    type: str
    required: true
  content:
    description:
      - The table, from C(table inet <name> {) to its closing brace, as C(nft -f) reads it.
      - A named counter that is written as C(counter <name> { packets 0 bytes 0 }) takes over the value of the counter that it replaces.
      - Needed unless O(state) is V(reverted) or V(absent).
    type: str
  state:
    description:
      - V(present) loads the table if it differs, makes a new connection, and confirms.
      - V(loaded) loads it if it differs, makes a new connection, and leaves the timer running, so that others can try to
        reach the host first. V(confirmed) then stops the timer and writes O(boot_file).
      - V(reverted) restores at once what was before, if something waits for confirmation.
      - V(absent) removes the table and O(boot_file). Nothing is filtered by it any more.
    type: str
    choices: [present, loaded, confirmed, reverted, absent]
    default: present
  boot_file:
    description: File from which a unit of yours loads the table at boot. Its directory must exist.
    type: path
    required: true
  revert_seconds:
    description: Seconds after which an unconfirmed table is taken back.
    type: int
    default: 60
  management_networks:
    description:
      - Networks from which the table lets SSH in. If given, nothing is loaded unless the connection of this task comes, as the host
        sees it, from one of them.
    type: list
    elements: str
    default: []
requirements:
  - nftables >= 1.0.6 and systemd on the host, and root
"""

EXAMPLES = r"""
- name: Let SSH in from the management network, and nothing else
  onprem.deepseek.nftables_ruleset:
    table: example
    boot_file: /etc/example.nft
    management_networks: [10.1.1.0/24]
    content: |
      table inet example {
        chain input {
          type filter hook input priority -10; policy drop;
          iifname "lo" accept
          ip saddr 10.1.1.0/24 tcp dport 22 accept
          ct state established accept
        }
      }

- name: Show what somebody changed by hand
  onprem.deepseek.nftables_ruleset:
    table: example
    boot_file: /etc/example.nft
    content: "{{ lookup('ansible.builtin.file', 'example.nft') }}"
  check_mode: true
  diff: true
"""

RETURN = r"""
ruleset_sha256:
  description: SHA-256 of the table as it is loaded when the module ends, in the host's own listing; empty if there is none.
  type: str
  returned: success
waiting:
  description: Whether the table waits for confirmation, and will be taken back without it.
  type: bool
  returned: success
at_boot:
  description: Whether O(boot_file) loads what is wanted.
  type: bool
  returned: when O(content) is given
connection:
  description: Client address, client port, server address and server port of the new connection, as the host saw it.
  type: list
  elements: str
  returned: when a table was loaded over SSH
  sample: ["10.1.1.5", "51234", "10.1.1.21", "22"]
seconds:
  description: Seconds from the load to the end of the task.
  type: float
  returned: when a table was loaded
"""

import os

from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import module_runner
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.nftables import (
    NftablesError,
    Table,
    canonical,
    changing,
    confirm,
    digest,
    listing,
    load,
    pending,
    read,
    record,
    replacing,
    revert,
    write,
)


def difference(name, before, after):
    return {"before_header": name, "after_header": name, "before": before, "after": after}


def loaded(module, run, table):
    """Load the table if it is not what is wanted."""
    wanted = canonical(run, table, module.params["content"])
    before = listing(run, table)
    changed = before != wanted
    if changed and not module.check_mode:
        load(run, table, module.params["content"], module.params["revert_seconds"])
    return changed, [difference(f"table inet {table.name}", before, wanted)] if changed else []


def confirmed(module, run, table):
    """Keep what is loaded, and have it loaded at boot."""
    content = replacing(table, module.params["content"])
    before = read(table.boot_file)
    changed = before != content
    if not module.check_mode:
        changed = confirm(run, table, canonical(run, table, module.params["content"])) or changed
        if before != content:
            write(table.boot_file, content)
        record(run, table)
    return changed, [difference(table.boot_file, before, content)] if before != content else []


def reverted(module, run, table):
    """Restore what was before."""
    if module.check_mode:
        return pending(run, table), []
    return revert(run, table), []


def absent(module, run, table):
    """Remove the table and its file."""
    before, file = listing(run, table), read(table.boot_file)
    if not module.check_mode:
        if before:
            run(["nft", "-f", "-"], replacing(table, ""))
        if file:
            os.unlink(table.boot_file)
        record(run, table)
    diff = [difference(f"table inet {table.name}", before, "")] if before else []
    return bool(before or file), diff + ([difference(table.boot_file, file, "")] if file else [])


def described(module, run, table):
    """What is so when the module ends."""
    now = listing(run, table)
    result = {"waiting": pending(run, table), "ruleset_sha256": digest(now) if now else ""}
    if module.params["content"]:
        result["at_boot"] = read(table.boot_file) == replacing(table, module.params["content"])
    return result


def main():
    module = HostModule(
        argument_spec={
            "table": {"type": "str", "required": True},
            "content": {"type": "str"},
            "state": {
                "type": "str",
                "choices": ["present", "loaded", "confirmed", "reverted", "absent"],
                "default": "present",
            },
            "boot_file": {"type": "path", "required": True},
            "revert_seconds": {"type": "int", "default": 60},
            "management_networks": {"type": "list", "elements": "str", "default": []},
        },
        required_if=[("state", state, ["content"]) for state in ("present", "loaded", "confirmed")],
        supports_check_mode=True,
    )
    table = Table(module.params["table"], module.params["boot_file"])
    run = module_runner(module)
    # V(present) is what the action makes of the others.
    work = {"loaded": loaded, "confirmed": confirmed, "reverted": reverted, "absent": absent}[
        module.params["state"].replace("present", "loaded")
    ]
    try:
        with changing(table, wanted=not module.check_mode):
            changed, diff = work(module, run, table)
        module.exit_json(changed=changed, diff=diff, **described(module, run, table))
    except (NftablesError, OSError) as error:
        module.fail_json(msg=f"{table.name}: {error}.")


if __name__ == "__main__":
    main()
