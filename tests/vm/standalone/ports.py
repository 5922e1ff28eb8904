"""A guest's virtio-serial ports, by name; there is no udev in a guest that would make links."""

import os
from pathlib import Path

PORTS = Path("/sys/class/virtio-ports")


def open_port(name: str) -> int:
    """The virtio-serial port of this name."""
    for entry in PORTS.iterdir():
        if (entry / "name").read_text().strip() == name:
            return os.open(f"/dev/{entry.name}", os.O_RDWR)
    raise FileNotFoundError(f"this guest has no port {name}")
