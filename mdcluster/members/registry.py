"""Which path leads to which device on this host.

Device names differ between hosts and change over reboots: a path that somebody named is a
hint, the device UUID decides. The registry looks at the configured globs and directories and
at the hints, read-only, many at a time; a device that hangs delays a scan by one deadline, once.
"""

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass

from mdcluster.core.model import ArrayId, DeviceId
from mdcluster.members.errors import MembersError
from mdcluster.members.look import Identity, Look, candidates, look
from mdcluster.workers import AccessLateError, Workers


@dataclass(frozen=True, slots=True)
class Claim:
    """What a member on this host says: which cluster owns it, in which array."""

    device: DeviceId
    array: ArrayId
    array_name: str
    cluster: str
    cluster_uuid: str


LOOKS_AT_ONCE = 16
RESCAN_MIN_MS = 1000
REMEMBERED_MAX = 4096
_SCAN_KEY = "scan of the member directories"


class Registry:
    """Paths by device UUID. patterns: Settings.driver.members. For one event loop."""

    def __init__(self, patterns: Iterable[str], workers: Workers, look_deadline_ms: int) -> None:
        self._patterns = tuple(patterns)
        self._workers = workers
        self._deadline_ms = look_deadline_ms
        self._paths: dict[DeviceId, str] = {}
        self._numbers: dict[DeviceId, tuple[int, int]] = {}
        self._claims: tuple[Claim, ...] = ()
        self._hints: dict[DeviceId, str] = {}
        self._scanned_at_ms: float | None = None
        self._turn = asyncio.Lock()
        self._looking = asyncio.Semaphore(LOOKS_AT_ONCE)

    def path_of(self, device: DeviceId) -> str | None:
        """Where the device was seen last."""
        return self._paths.get(device)

    @property
    def paths(self) -> dict[DeviceId, str]:
        """All that is known, for views."""
        return dict(self._paths)

    @property
    def numbers(self) -> dict[DeviceId, tuple[int, int]]:
        """Major and minor of those that are block devices, for views."""
        return dict(self._numbers)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Of all members with the guard bit that the latest scan has seen."""
        return self._claims

    def remember(self, device: DeviceId, path: str, identity: Identity | None = None) -> None:
        """This path was proved to lead to the device."""
        if len(self._paths) >= REMEMBERED_MAX and device not in self._paths:
            return
        self._paths[device] = path
        if identity is not None and identity[0] == 0:
            self._numbers[device] = os.major(identity[1]), os.minor(identity[1])

    def hint(self, device: DeviceId, path: str) -> None:
        """Somebody says so: looked at first, never believed."""
        if len(self._hints) < REMEMBERED_MAX or device in self._hints:
            self._hints[device] = path

    def forget(self, device: DeviceId) -> None:
        """The path turned out to lead elsewhere."""
        self._paths.pop(device, None)
        self._numbers.pop(device, None)

    async def look(self, path: str) -> Look:
        """Read one device. Raises nothing."""
        async with self._looking:
            try:
                return await self._workers.run(path, self._deadline_ms, lambda: look(path))
            except AccessLateError as error:
                return Look(path, problem=str(error))

    async def look_all(self, paths: Iterable[str]) -> tuple[Look, ...]:
        """Several devices at the same time, in the order given."""
        return tuple(await asyncio.gather(*(self.look(path) for path in paths)))

    async def scan(self, hints: Iterable[str] = ()) -> tuple[Look, ...]:
        """Look at everything now; what was seen is remembered. Scans come one after the other."""
        async with self._turn:
            named = (*hints, *self._hints.values(), *self._paths.values())
            try:
                paths = await self._workers.run(
                    _SCAN_KEY, self._deadline_ms, lambda: candidates(self._patterns, named)
                )
            except AccessLateError:
                paths = tuple(dict.fromkeys(named))  # a hanging directory hides no known device
            looks = await self.look_all(paths)
            self._scanned_at_ms = _now_ms()
            self._learn(looks)
            return looks

    def _learn(self, looks: Iterable[Look]) -> None:
        self._claims = tuple(claim for one in looks if (claim := _claim(one)) is not None)
        seen: dict[DeviceId, list[Look]] = {}
        for one in looks:
            if one.device is not None:
                seen.setdefault(one.device, []).append(one)
        for device, same in seen.items():
            if len(same) > 1:
                self.forget(device)  # two devices say so: neither is believed
            else:
                self.remember(device, same[0].path, same[0].identity)

    async def find(self, device: DeviceId) -> str:
        """Its path, after a new scan if it is not known; MembersError if it is not to be found.

        Devices that are not there cost one scan per RESCAN_MIN_MS, however often asked for.
        """
        if device not in self._paths:
            await self.refresh()
        path = self._paths.get(device)
        if path is None:
            raise MembersError(
                f"device {device} is not to be found on this node; check its cabling and "
                f"[driver] members = {list(self._patterns)} in the settings"
            )
        return path

    async def refresh(self) -> None:
        """Scan, unless that was just done."""
        last = self._scanned_at_ms
        if last is None or _now_ms() - last >= RESCAN_MIN_MS:
            await self.scan()


def _claim(seen: Look) -> Claim | None:
    superblock, header = seen.superblock, seen.header
    if superblock is None or header is None or not superblock.guarded:
        return None
    return Claim(
        DeviceId(str(superblock.device_uuid)),
        ArrayId(str(superblock.set_uuid)),
        superblock.set_name,
        header.cluster_name,
        str(header.cluster_uuid),
    )


def _now_ms() -> float:
    return asyncio.get_running_loop().time() * 1000
