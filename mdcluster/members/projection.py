"""The superblock that stands for a committed state: pure, one direction only.

Superblocks are for stock mdadm and for a cold start; nothing is decided from them while the
cluster lives. Three things are worth knowing:

* `resync_offset` follows `resync_sectors` alone. While bits of dead lives wait for their pass
  it stays "in sync": which chunks may differ is in the bitmap slots, and a position would say
  that everything behind it may.
* md counts the resync of a raid10 in sectors of the *array* (drivers/md/raid10.c, raid10_run:
  resync_max_sectors = raid10_size), our positions are sectors of the component: the whole rows
  below the position are complete, so many array sectors are.
* numbers given out to members that are gone have the role "faulty": a stock mdadm that meets
  such a member does not take it for a spare.
"""

from dataclasses import replace
from uuid import UUID

from mdcluster.core.model import ArrayState, Member, MemberState, Stamp
from mdcluster.members.errors import MembersError
from mdcluster.metadata.superblock import (
    FEATURE_REPLACEMENT,
    GUARD_BIT,
    HEAD_BYTES,
    MAX_SECTOR,
    ROLE_FAULTY,
    ROLE_SPARE,
    SECTOR,
    Superblock,
)


def uuid_of(text: str, what: str) -> UUID:
    """The UUID that an id of the core is on disk; MembersError if it is none."""
    try:
        return UUID(text)
    except ValueError:
        raise MembersError(f"{what} {text!r} is no UUID: it cannot stand on a disk") from None


def project(
    state: ArrayState, stamp: Stamp, member: Member, now_s: int, *, owned: bool = True
) -> Superblock:
    """The superblock of one member at this commit. owned: a cluster has it, mdadm must not.

    now_s: seconds since the epoch, for utime.
    """
    made = Superblock(
        set_uuid=uuid_of(state.uuid, "array"),
        set_name=state.name,
        ctime=state.created_s,
        utime=now_s,
        level=state.level,
        layout=state.layout,
        size_sectors=state.size_sectors,
        chunksize_sectors=state.chunk_sectors,
        raid_disks=state.raid_disks,
        data_offset_sectors=member.data_offset_sectors,
        data_size_sectors=member.data_size_sectors,
        dev_number=member.number,
        device_uuid=uuid_of(member.device, "device"),
        events=stamp.events,
        resync_offset_sectors=_resync_offset_sectors(state),
        dev_roles=_roles(state),
        feature_map=GUARD_BIT if owned else 0,
    )
    if member.replacement:  # as super_1_sync of drivers/md/md.c
        made = replace(made, feature_map=made.feature_map | FEATURE_REPLACEMENT)
    if member.state is MemberState.RECOVERING:
        return made.with_recovery(member.recovery_sectors)
    return made


def _resync_offset_sectors(state: ArrayState) -> int:
    if state.resync_sectors is None:
        return MAX_SECTOR
    if state.level != 10:
        return state.resync_sectors
    rows = state.resync_sectors // state.chunk_sectors
    return rows * state.raid_disks // 2 * state.chunk_sectors


def _roles(state: ArrayState) -> tuple[int, ...]:
    """By device number; filled up with spares to whole sectors, as mdadm does (init_super1)."""
    roles = [ROLE_FAULTY] * state.next_number
    for member in state.members:
        if member.state is MemberState.FAULTY:
            continue
        roles[member.number] = ROLE_SPARE if member.role < 0 else member.role
    used_bytes = HEAD_BYTES + 2 * len(roles)
    entries = (-(-used_bytes // SECTOR) * SECTOR - HEAD_BYTES) // 2
    return (*roles, *[ROLE_SPARE] * (entries - len(roles)))
