"""Guests with stock Debian kernels under QEMU, which share raw disks and a private network.

>>> with Lab(nodes=2, disks=(Disk("d1", 64),)) as lab:
...     node1, node2 = lab.guests
...     print(node1.run("uname -r").out)
"""

from tests.vm.lab.disks import Disk
from tests.vm.lab.errors import CommandError, GuestDeadError, LabError, LateError
from tests.vm.lab.fencing import Mood
from tests.vm.lab.guest import Guest, GuestProcess
from tests.vm.lab.lab import Lab
from tests.vm.lab.result import Result

__all__ = [
    "CommandError",
    "Disk",
    "Guest",
    "GuestDeadError",
    "GuestProcess",
    "Lab",
    "LabError",
    "LateError",
    "Mood",
    "Result",
]
