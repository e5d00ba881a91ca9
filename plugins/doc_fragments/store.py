# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation shared by the modules that write and pull artifacts."""

from __future__ import annotations


class ModuleDocFragment:
    """Options that all of them have, and those of the ones that sign or pull."""

    DOCUMENTATION = r"""
options:
  store:
    description: Directory of the store.
    type: path
    required: true
  model:
    description: Name of the model.
    type: str
    required: true
  public_key:
    description: PEM file with the site's release public key (EC P-256). All signatures must verify against it, new ones too.
    type: path
    required: true
  verify:
    description: How to judge what is in the store on this host, by every byte (V(full)) or by sizes and metadata (V(quick)).
    type: str
    choices: [full, quick]
    default: full
requirements:
  - cryptography >= 38 (Debian package python3-cryptography)
"""

    SIGNING = r"""
options:
  venv:
    description: Virtual environment with the serving package, for its programs.
    type: path
    required: true
  module_path:
    description: PKCS#11 library of the signing token.
    type: path
    required: true
  token:
    description: Label of the signing token.
    type: str
    required: true
  key:
    description: Label of the signing key.
    type: str
    default: release-signing
  pin_file:
    description: File that holds the user PIN, without a newline at the end.
    type: path
    required: true
requirements:
  - PyKCS11 (Debian package python3-pykcs11)
"""

    SOURCES = r"""
options:
  sources:
    description:
      - Base URLs of hosts that serve the store over mutual TLS 1.3, and C(file://) with the absolute path of a directory where a store is
        mounted. What comes from a mount is verified as what comes from a host.
    type: list
    elements: str
    default: []
  ca:
    description: PEM file with the certificate authority of the sources.
    type: path
    required: true
  certificate:
    description: PEM file with this host's certificate.
    type: path
    required: true
  private_key:
    description: PEM file with the private key of O(certificate).
    type: path
    required: true
  timeout:
    description: Seconds to wait for a source that does not answer.
    type: float
    default: 5.0
requirements:
  - aria2 >= 1.36 (Debian package aria2)
"""

    CACHE = r"""
options:
  evict:
    description:
      - Whether other releases on this host may go when there is not enough room. Those that came first go first, and none goes while
        there is room. It can be pulled again later.
      - Never to be set for a host that others pull from.
    type: bool
    default: false
  keep:
    description: Releases that O(evict) never touches, each as C(<model>/<version>), besides the one that is pulled.
    type: list
    elements: str
    default: []
  served:
    description:
      - JSON file in which role P(onprem.deepseek.inference#role) records what the host has served.
      - O(evict) never touches what it serves, and what it served before that.
    type: path
"""

    CHECKPOINT = r"""
options:
  allowed_files:
    description: Files of the checkpoint, by their paths below its directory, that are published although they are code or pickles.
    type: list
    elements: str
    default: []
  checksums:
    description:
      - The publisher's list of SHA-256 digests on the host where the module runs, as C(sha256sum) writes it. It must name every file of
        weights.
      - A byte order mark, UTF-16, tabs and CR LF are taken.
    type: path
  zero_tensors:
    description:
      - Tensors, by names or patterns with C(*), that may hold 1 MiB of zeros in a row. In all others that is a part of a download that never
        came, and the checkpoint is refused.
    type: list
    elements: str
    default: []
"""

    PRECISIONS = r"""
options:
  precisions:
    description:
      - The precisions of the release beside V(fp32), each made from the V(fp32) graph by C(deepseek-prepare), and only if it is close
        enough to it on the held-out text.
      - Texts are files on the host where the module runs, with one document per line, plain or (C(.jsonl)) as JSON strings or objects
        with C(text). Their hashes are recorded.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The precision. V(fp8) needs a GPU of compute capability 8.9 or later.
        type: str
        choices: [fp16, bf16, int8, int4, fp8]
        required: true
      held_out:
        description: What the graph is judged on. It must not share a document with O(precisions[].calibration).
        type: path
        required: true
      calibration:
        description: What the ranges of activations are measured on. Required for V(int8) and V(fp8), and of no use for the others.
        type: path
      block_size:
        description: Inputs that share a scale, for V(int4) only. Without it C(deepseek-prepare) decides.
        type: int
      max_perplexity_increase:
        description: Accuracy gate, V(0.03) for 3 percent over the V(fp32) graph. Without it the precision's own.
        type: float
      min_top1_agreement:
        description: Accuracy gate, the share of positions at which both graphs find the same token most likely. Without it the precision's own.
        type: float
      max_kl_divergence:
        description: Accuracy gate, the mean over the positions, in nats. Without it the precision's own.
        type: float
"""
