"""Write what the kernel shows of a server with a GPU, and of one that cannot have the driver."""

from pathlib import Path

RECORDED = Path("/srv/recorded")
# From an H100 in a virtual machine: an Ethernet card of another vendor, and the GPU.
DEVICES = {
    "0000:00:03.0": {"vendor": "0x1af4", "device": "0x1041", "class": "0x020000"},
    "0000:00:06.0": {"vendor": "0x10de", "device": "0x2330", "class": "0x030200"},
}
SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

for address, said in DEVICES.items():
    device = RECORDED / "sys/bus/pci/devices" / address
    device.mkdir(parents=True)
    for name, value in said.items():
        (device / name).write_text(f"{value}\n")

# No GPU, Secure Boot on, and nouveau loaded.
variables = RECORDED / "secure/firmware/efi/efivars"
variables.mkdir(parents=True)
(variables / SECURE_BOOT).write_bytes(b"\x06\0\0\0\1")
(RECORDED / "secure/module/nouveau").mkdir(parents=True)
