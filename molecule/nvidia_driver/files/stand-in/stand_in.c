// SPDX-License-Identifier: GPL-3.0-or-later
/* Each of NVIDIA's kernel modules by name and version, and nothing else of them. */
#include <linux/module.h>

MODULE_DESCRIPTION("Stand-in for a kernel module of NVIDIA's driver");
MODULE_LICENSE("GPL");
MODULE_VERSION(STAND_IN_VERSION);
