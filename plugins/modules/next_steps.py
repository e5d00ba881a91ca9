# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: next_steps
short_description: Show what comes after a rollout
version_added: "0.1.0"
description:
  - Shows on the controller the address of the service, how to get the CA file, a question with C(curl), how to make an API key, where the pages
    are, and the commands of every day, with the inventories of the run. Commands work as they are pasted.
  - The task asks no host, and changes nothing.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Shows the same.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
options:
  service_name:
    description: Name of the service in DNS.
    type: str
    required: true
  address:
    description: Address of a gateway that clients reach.
    type: str
    required: true
  port:
    description: Port of the gateway.
    type: int
    required: true
  model:
    description: Model that the question is for.
    type: str
    required: true
  tls_dir:
    description: Directory with C(ca.pem) on the gateway.
    type: str
    required: true
  venv_dir:
    description: Environment of the serving package on the inference hosts.
    type: str
    required: true
  gateway:
    description: Name of a gateway in the inventory.
    type: str
    required: true
  inference:
    description: Name of an inference host in the inventory.
    type: str
    required: true
  keys_file:
    description: File with the API keys on the controller; empty without them.
    type: str
    default: ""
  client_certificates:
    description: Whether the gateway asks clients for certificates.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show what comes next
  onprem.deepseek.next_steps:
    service_name: deepseek.example.org
    address: 198.51.100.11
    port: 443
    model: deepseek-r1-distill-qwen-1.5b
    tls_dir: /etc/deepseek/tls
    venv_dir: /opt/deepseek/serving
    gateway: gateway-1
    inference: inference-1
"""

RETURN = r"""
lines:
  description: What was shown.
  returned: always
  type: list
  elements: str
"""
