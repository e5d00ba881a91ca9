# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install pip in a bare virtual environment, in place of the script that ansible-test downloads.

It takes the arguments that ansible-test gives to that script: options and requirements of pip.
Python's own ensurepip gives a first pip, which installs the version that is asked for from the
package index.
"""

from __future__ import annotations

import subprocess
import sys


def main():
    """Entry point."""
    arguments = sys.argv[1:]
    options = [word for word in arguments if word not in ("--no-setuptools", "--no-wheel")]
    pip = [sys.executable, "-m", "pip"]
    subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"])
    subprocess.check_call([*pip, "install", *options])
    # before Python 3.12 ensurepip installs setuptools
    if "--no-setuptools" in arguments and sys.version_info < (3, 12):
        subprocess.check_call([*pip, "uninstall", "--yes", "setuptools"])


if __name__ == "__main__":
    main()
