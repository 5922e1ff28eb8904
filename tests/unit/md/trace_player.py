"""Plays a script of `trace_script` on a bench and writes down what is seen of it: the trace.

A trace has a line for each step: what was done, what it gave, what came of itself until the step
was settled, and how things stand then. Nothing in it depends on a path, a time or a kernel's
numbers.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from mdcluster.core.model import ArrayState, DeviceId, MemberState, SyncKind
from mdcluster.gate import GateShutError
from mdcluster.md.driver import ArrayStatus, DriverError, MemberStatus, SyncStep
from tests.unit.md.port_suite import (
    ARRAY,
    BLOCK,
    PATIENCE_S,
    SECTOR,
    SLOT_SECTORS,
    Lab,
    array,
    device,
    member,
)

BLOCKS: Final = 24
BLOCK_SECTORS: Final = 128
BLOCK_BYTES: Final = BLOCK_SECTORS * SECTOR
CHUNK_BLOCKS: Final = 2
SLOTS: Final = 3
Now = dict[str, Any]


class Bench(Lab, Protocol):
    """What a script is played on: a lab, with members of `BLOCKS` blocks."""

    async def assemble(
        self, state: ArrayState, slot: int = 0, *, read_only: bool = False
    ) -> None: ...

    async def restart(self, state: ArrayState) -> None:
        """Another driver inherits the arrays of this one."""


@dataclass(frozen=True, slots=True)
class Line:
    """One step. now: how all stands; in a file only what has changed."""

    do: str
    gives: str
    events: tuple[str, ...]
    now: Mapping[str, Any]


Settle = Callable[[Callable[[], Line]], Awaitable[None]]
"""Waits until a step is settled: what it is given gives the line of the step as it would be now."""


def text_of(line: Line, before: Line | None) -> str:
    """For a file of traces; before: the line of the step before it."""
    old = before.now if before else {}
    now = {key: value for key, value in line.now.items() if old.get(key) != value}
    return json.dumps({"do": line.do, "gives": line.gives, "events": list(line.events), "now": now})


def lines_of(texts: Iterable[str]) -> Iterator[Line]:
    """A trace of a file."""
    now: Now = {}
    for text in texts:
        found = json.loads(text)
        now = {**now, **found["now"]}
        if not now["runs"]:
            now = {key: now[key] for key in ("waiting", "told", "runs", "data")}
        yield Line(found["do"], found["gives"], tuple(found["events"]), now)


@dataclass(eq=False)
class Player:
    """One script on a fresh bench; what still waits at its end is left to the bench's end."""

    bench: Bench
    _waiting: dict[str, "asyncio.Task[str]"] = field(default_factory=dict)
    _told: int = 0
    _state: ArrayState = field(default_factory=array)  # as it is committed

    async def step(self, step: str, settle: Settle) -> Line:
        """Play one step. TimeoutError if it does not end."""
        name, *words = step.removeprefix("& ").split()
        call = getattr(self, f"_do_{name}")(*words)
        gives = ""
        if step.startswith("& "):
            self._begin(step.removeprefix("& "), call)
        else:
            gives = await asyncio.wait_for(_in_words(call), PATIENCE_S)

        def look() -> Line:
            return Line(step, gives, tuple(self._events()), self._look())

        await settle(look)
        line = look()
        self._told = line.now["told"]
        self._waiting = {n: task for n, task in self._waiting.items() if not task.done()}
        return line

    def _begin(self, name: str, call: Coroutine[Any, Any, Any]) -> None:
        assert name not in self._waiting, f"{name} is waiting already"
        self._waiting[name] = asyncio.create_task(_in_words(call))

    # --- what is seen --------------------------------------------------------------------------

    def _events(self) -> list[str]:
        """Since the step before: members that were told of, then what has ended, by name."""
        events = [f"failed {_number(one)}" for one in self.bench.failures()[self._told :]]
        ended = sorted(name for name, task in self._waiting.items() if task.done())
        return events + [f"{name}: {self._waiting[name].result()}" for name in ended]

    def _look(self) -> Now:
        driver = self.bench.driver
        waiting = [name for name, task in self._waiting.items() if not task.done()]
        now: Now = {"waiting": sorted(waiting), "told": len(self.bench.failures())}
        if ARRAY not in driver.arrays():
            return {**now, "runs": False, "data": self._data()}
        status = driver.status(ARRAY)
        return {
            **now,
            "runs": True,
            "members": {str(_number(m.device)): _member(m) for m in status.members},
            "pending": status.write_pending,
            "clean": status.clean,
            "sync": _sync(status),
            "shape": f"{status.raid_disks} roles, {status.size_sectors // BLOCK_SECTORS} blocks, "
            f"{status.shown_sectors // BLOCK_SECTORS} shown",
            "data": self._data(),
        }

    def _data(self) -> dict[str, str]:
        """What is on the disks, a letter a block."""
        found = {n: letters(self.bench.data_of(device(n))) for n in range(7)}
        return {str(n): text for n, text in found.items() if text.strip(".")}

    # --- calls of the port ---------------------------------------------------------------------

    async def _do_assemble(self, level: str, disks: str, *words: str) -> None:
        options = dict(zip(words[::2], words[1::2], strict=False))
        state = array(int(level), int(disks), BLOCK_SECTORS)
        self._state = replace(
            state,
            size_sectors=int(options.get("blocks", BLOCKS)) * BLOCK_SECTORS,
            bitmap_chunk_sectors=CHUNK_BLOCKS * BLOCK_SECTORS,
        )
        await self.bench.assemble(self._state, read_only="read_only" in words)

    async def _do_run(self) -> None:
        await self.bench.driver.run(ARRAY)

    async def _do_activate(self) -> None:
        await self.bench.driver.activate(ARRAY)

    async def _do_stop(self) -> bool:
        return await self.bench.driver.stop(ARRAY)

    async def _do_fail(self, number: str) -> None:
        failed = device(int(number))
        await self.bench.driver.fail(ARRAY, failed)
        members = tuple(
            replace(m, state=MemberState.FAULTY, role=-1) if m.device == failed else m
            for m in self._state.members
        )
        self._state = replace(self._state, members=members)

    async def _do_unblock(self, number: str) -> None:
        await self.bench.driver.unblock(ARRAY, device(int(number)))

    async def _do_remove(self, number: str) -> None:
        await self.bench.driver.remove(ARRAY, device(int(number)))

    async def _do_add(self, number: str, role: str, how: str = "") -> None:
        state = MemberState.SPARE if how == "spare" else MemberState.RECOVERING
        entry = replace(
            member(int(number), state, role=int(role)),
            replacement=how == "replacement",
            by_bitmap=how == "by_bitmap",
        )
        await self.bench.driver.add(ARRAY, entry, self.bench.path(entry.device))

    async def _do_take_in(self, *numbers: str) -> None:
        await self.bench.driver.take_in(ARRAY, [device(int(number)) for number in numbers])

    async def _do_raid_disks(self, count: str) -> None:
        await self.bench.driver.set_raid_disks(ARRAY, int(count))

    async def _do_size(self, blocks: str, visible: str = "") -> None:
        size_sectors = int(blocks) * BLOCK_SECTORS
        await self.bench.driver.set_size(ARRAY, size_sectors, visible=bool(visible))

    async def _do_hold(self, lo: str, hi: str) -> None:
        await self.bench.driver.hold(ARRAY, int(lo) * BLOCK_SECTORS, int(hi) * BLOCK_SECTORS)

    async def _do_hold_all(self, on: str) -> None:
        await self.bench.driver.hold_all(ARRAY, on == "on")

    async def _do_pin(self, on: str) -> None:
        await self.bench.driver.pin_reads(ARRAY, on == "on")

    async def _do_set_bits(self, lo: str, hi: str) -> None:
        await self.bench.driver.set_bits(ARRAY, int(lo) * BLOCK_SECTORS, int(hi) * BLOCK_SECTORS)

    async def _do_merge_bits(self, *slots: str) -> None:
        offsets = tuple(slot_offset_sectors(int(slot)) for slot in slots)
        await self.bench.driver.merge_bits(ARRAY, offsets)

    async def _do_start_sync(self, kind: str, lo: str) -> None:
        await self.bench.driver.start_sync(ARRAY, SyncKind(kind), int(lo) * BLOCK_SECTORS)

    async def _do_limit_sync(self, hi: str) -> SyncStep:
        return await self.bench.driver.limit_sync(ARRAY, int(hi) * BLOCK_SECTORS)

    async def _do_stop_sync(self) -> None:
        await self.bench.driver.stop_sync(ARRAY)

    async def _do_next_dirty(self, lo: str) -> str:
        found = self.bench.driver.next_dirty(ARRAY, int(lo) * BLOCK_SECTORS)
        return _blocks(found)

    async def _do_restart(self) -> None:
        await self.bench.restart(self._state)

    # --- programs and disks --------------------------------------------------------------------

    async def _do_write(self, letter: str, block: str) -> None:
        data = letter.encode() * BLOCK_BYTES
        self._begin(f"write {letter}", self.bench.write(int(block) * BLOCK_BYTES, data))

    async def _do_read(self, block: str) -> str:
        return letters(await self.bench.read(int(block) * BLOCK_BYTES, BLOCK_BYTES))

    async def _do_put(self, number: str, letter: str, lo: str, hi: str) -> None:
        length = (int(hi) - int(lo)) * BLOCK_BYTES
        self.bench.put(device(int(number)), int(lo) * BLOCK_SECTORS, letter.encode() * length)

    async def _do_put_slot(self, number: str, slot: str, *chunks: str) -> None:
        bits = sum(1 << int(chunk) for chunk in chunks)
        self.bench.put_slot(device(int(number)), int(slot), bits.to_bytes(BLOCK, "little"))

    async def _do_bits(self, number: str) -> str:
        bits = int.from_bytes(self.bench.slot_of(device(int(number))), "little")
        return " ".join(str(n) for n in range(BLOCKS) if bits >> n & 1)

    async def _do_break_writes(self, number: str) -> None:
        self.bench.break_writes(device(int(number)))

    async def _do_break_reads(self, number: str) -> None:
        self.bench.break_reads(device(int(number)))

    async def _do_heal(self, number: str) -> None:
        self.bench.heal(device(int(number)))

    async def _do_shut_gate(self) -> None:
        self.bench.shut_gate()


def slot_offset_sectors(slot: int) -> int:
    """Where a slot lies on each member."""
    return SLOT_SECTORS[slot]


def letters(data: bytes) -> str:
    """A letter a block; `.` is an empty one, `?` one that is not all the same."""
    found = ""
    for at in range(0, min(len(data), BLOCKS * BLOCK_BYTES), BLOCK_BYTES):
        first = data[at : at + 1]
        same = data[at : at + BLOCK_BYTES] == first * BLOCK_BYTES
        found += ("." if first == b"\0" else first.decode("ascii", "replace")) if same else "?"
    return found


async def _in_words(call: Awaitable[Any]) -> str:
    """What a call gives."""
    try:
        given = await call
    except GateShutError:
        return "the gate is shut"
    except DriverError as error:
        return f"refused ({type(error).__name__})"
    except OSError:
        return "an I/O error"
    if isinstance(given, SyncStep):
        return _step(given)
    return "done" if given is None else str(given)


def _step(step: SyncStep) -> str:
    found = f" differ {_blocks(step.mismatched_sectors)}" if step.mismatched_sectors else ""
    copied = f"{_blocks(step.copied_sectors)} of {_blocks(step.planned_sectors)}"
    return f"at {_blocks(step.position_sectors)} copied {copied}{found}" + (
        f" next {_blocks(step.next_dirty_sectors)}"
    )


def _sync(status: ArrayStatus) -> str:
    if status.sync_kind is None:
        return ""
    return f"{status.sync_kind} at {_blocks(status.sync_completed_sectors)}"


def _member(status: MemberStatus) -> str:
    words = [str(status.role)]
    words += ["in sync"] * status.in_sync + ["faulty"] * status.faulty
    words += ["blocked"] * (status.blocked or status.unacknowledged_errors > 0)
    return " ".join(words)


def _blocks(sectors: int) -> str:
    return f"{sectors / BLOCK_SECTORS:g}"


def _number(device_id: DeviceId) -> int:
    return int(device_id.rpartition("-")[2])
