"""N guests, the disks they share and the network between them; all of it gone at the end."""

import atexit
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.vm.lab.accelerator import accelerator
from tests.vm.lab.boot import address_of, boot_env, mac_of
from tests.vm.lab.disks import Disk, can_bypass_cache, make_image, make_persist_image
from tests.vm.lab.errors import LabError
from tests.vm.lab.faulty import FaultyDisk
from tests.vm.lab.fencing import FenceDevice
from tests.vm.lab.folder import LabFolder
from tests.vm.lab.guest import BOOT_LIMIT_S, Guest
from tests.vm.lab.initramfs import initramfs
from tests.vm.lab.kernels import obtain
from tests.vm.lab.network import Network
from tests.vm.lab.qemu import Drive, Machine

NODES_MAX = 16
MEMORY_MIB = 512
PERSIST = "persist.raw"
T = TypeVar("T")


class Lab:
    """Guests node1, node2, ...; as a context manager it boots them all.

    Every guest sees all disks, in their order and under their names, unless `attach` has an entry
    for it: the disks it sees, in its own order; "d1:other" is disk d1 under another name.
    With udev, systemd's udevd runs with Debian's rules, so what it does to disks is done.
    """

    def __init__(
        self,
        *,
        nodes: int = 3,
        disks: Sequence[Disk] = (),
        attach: Mapping[str, Sequence[str]] | None = None,
        kernel: str = "6.1",
        memory_mib: int = MEMORY_MIB,
        cpus: int = 1,
        append: str = "",
        udev: bool = False,
    ) -> None:
        if not 1 <= nodes <= NODES_MAX:
            raise LabError(f"1 to {NODES_MAX} guests, not {nodes}")
        self.kernel = obtain(kernel)
        self.accelerator = accelerator(self.kernel)
        self._initramfs = initramfs(self.kernel)
        self._disks = {disk.name: disk for disk in disks}
        self._attach = dict(attach or {})
        self._size = (memory_mib, cpus, append)
        self._udev = udev
        self._by_name: dict[str, Guest] = {}
        self._folder = LabFolder()
        self.network = Network(self.folder)
        self.fence = FenceDevice(self._by_name)
        atexit.register(self.close)

        self._direct = can_bypass_cache(self.folder)
        for disk in disks:
            make_image(self.image(disk.name), disk.size_mib)
        for number in range(1, nodes + 1):
            guest = self._guest(number, nodes)
            self._by_name[guest.name] = guest

    @property
    def folder(self) -> Path:
        """Where images, sockets and logs are."""
        return self._folder.path

    @property
    def guests(self) -> list[Guest]:
        """node1, node2, ..."""
        return list(self._by_name.values())

    def __getitem__(self, name: str) -> Guest:
        if name not in self._by_name:
            raise LabError(f"no guest {name}; there are {', '.join(self._by_name)}")
        return self._by_name[name]

    def image(self, disk: str) -> Path:
        """The file behind a shared disk."""
        return self.folder / f"{disk}.raw"

    # --- making the guests -------------------------------------------------------------------

    def _guest(self, number: int, nodes: int) -> Guest:
        name = f"node{number}"
        folder = self.folder / name
        folder.mkdir()
        make_persist_image(folder / PERSIST)
        names = self._names_in(name)
        settings = boot_env(number, nodes, self.kernel, folder, names, udev=self._udev)
        (folder / "boot.env").write_text(settings)
        memory_mib, cpus, append = self._size
        machine = Machine(
            name=name,
            folder=folder,
            kernel=self.kernel.image,
            initramfs=self._initramfs,
            accelerator=self.accelerator,
            memory_mib=memory_mib,
            cpus=cpus,
            mac=mac_of(number),
            drives=self._drives(folder, names),
            append=append,
        )
        guest = Guest(machine, address_of(number), self.network, self.fence.serve)
        for disk, known_as in names.items():
            guest.disks[disk] = FaultyDisk(guest, self._disks[disk], known_as)
        return guest

    def _names_in(self, guest: str) -> dict[str, str]:
        """The disks that this guest sees, in its order, with the names they have there."""
        names: dict[str, str] = {}
        for entry in self._attach.get(guest, self._disks):
            disk, _, other = entry.partition(":")
            if disk not in self._disks:
                raise LabError(f"{guest}: no disk {disk}; there are {', '.join(self._disks)}")
            names[disk] = other or disk
        return names

    def _drives(self, folder: Path, names: Mapping[str, str]) -> list[Drive]:
        own = Drive(folder / PERSIST, "lab-persist", shared=False, direct=self._direct)
        return [own] + [
            Drive(self.image(name), name, True, self._direct, self._disks[name].throttle)
            for name in names
        ]

    # --- life --------------------------------------------------------------------------------

    def start(self, timeout_s: float = BOOT_LIMIT_S) -> None:
        """Boot all guests that do not run, at the same time."""
        for guest in self.guests:
            if not guest.alive:
                guest.start()
        for guest in self.guests:
            guest.wait_ready(timeout_s)

    def each(self, work: Callable[[Guest], T]) -> list[T]:
        """Do it in all guests at the same time; what came of it, or the first error."""
        with ThreadPoolExecutor(NODES_MAX) as pool:
            return list(pool.map(work, self.guests))

    def mend(self) -> None:
        """No cut is left, every disk works, the fence device works, every guest answers."""
        self.network.heal()
        self.fence.mend()
        self.each(lambda guest: guest.mend())

    def reset(self) -> None:
        """Mended, and as new: all guests booted again, all disks empty."""
        for guest in self.guests:
            guest.power_cut()
        for disk in self._disks.values():
            make_image(self.image(disk.name), disk.size_mib)
        for guest in self.guests:
            make_persist_image(guest.machine.folder / PERSIST)
        self.mend()

    def close(self) -> None:
        """Cut every guest's power and remove every file; may be called again."""
        for guest in self.guests:
            guest.close()
        self.network.close()
        self._folder.remove()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
