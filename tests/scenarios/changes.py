"""What a script may propose: `propose NODE ID VERB ...` -> a change of the model."""

from dataclasses import replace

from mdcluster.core import model as m
from mdcluster.core.creation import create as create_state
from tests.scenarios.hosts import Host
from tests.scenarios.words import MIB

SIZE_SECTORS = 64 * MIB
CREATE_WORDS = ("clean", "small")


class Changes:
    """The verbs of `propose`: the method `change_...` of each."""

    def _host(self, name: str) -> Host:
        raise NotImplementedError

    def change_create(self, array: str, *devices: str) -> m.Change:
        """create r0 d1 d2 [clean] [small]: raid1 of 64 MiB, to be resynced unless `clean`.

        `small`: it uses 32 MiB of the 64 that its members have.
        """
        names = [d for d in devices if d not in CREATE_WORDS]
        members = tuple(new_member(d, role) for role, d in enumerate(names))
        return m.CreateArray(
            array=m.ArrayId(array),
            name=array,
            level=1,
            layout=0,
            chunk_sectors=0,
            raid_disks=len(members),
            size_sectors=SIZE_SECTORS // 2 if "small" in devices else SIZE_SECTORS,
            bitmap_chunk_sectors=MIB,
            members=members,
            assume_clean="clean" in devices,
            now_s=1,
        )

    def change_adopt(self, array: str, *devices: str) -> m.Change:
        """adopt r0 d1 d2 [events=1.8] [name=r1]: the plain, clean raid1 on these devices."""
        names = [d for d in devices if "=" not in d]
        options = dict(d.split("=") for d in devices if "=" in d)
        term, _, seq = options.get("events", "0.20").partition(".")
        create = self.change_create(array, *names, "clean")
        assert isinstance(create, m.CreateArray)
        return m.AdoptArray(
            array=create.array,
            state=replace(create_state(create), name=options.get("name", array)),
            paths=tuple(new.path for new in create.members),
            events=m.Stamp(int(term), int(seq)).events,
        )

    def change_release(self, array: str) -> m.Change:
        return m.ReleaseArray(m.ArrayId(array))

    def change_assemble(self, array: str, *options: str) -> m.Change:
        readonly = "readonly" in options
        return m.StartArray(m.ArrayId(array), run="run" in options, readonly=readonly)

    def change_stop(self, array: str) -> m.Change:
        return m.StopArray(m.ArrayId(array))

    def change_readonly(self, array: str) -> m.Change:
        return m.SetReadonly(m.ArrayId(array), on=True)

    def change_readwrite(self, array: str) -> m.Change:
        return m.SetReadonly(m.ArrayId(array), on=False)

    def change_pause(self, array: str) -> m.Change:
        return m.SetPaused(m.ArrayId(array), on=True, now_s=1)

    def change_resume(self, array: str) -> m.Change:
        return m.SetPaused(m.ArrayId(array), on=False)

    def change_check(self, array: str) -> m.Change:
        return m.BeginSync(m.ArrayId(array), m.SyncKind.CHECK)

    def change_repair(self, array: str) -> m.Change:
        return m.BeginSync(m.ArrayId(array), m.SyncKind.REPAIR)

    def change_idle(self, array: str) -> m.Change:
        return m.StopLooking(m.ArrayId(array))

    def change_raid_disks(self, array: str, count: str) -> m.Change:
        return m.SetRaidDisks(m.ArrayId(array), int(count))

    def change_size(self, array: str, size_mib: str) -> m.Change:
        return m.SetSize(m.ArrayId(array), int(size_mib) * MIB)

    def change_fail(self, array: str, device: str) -> m.Change:
        return m.FailMember(m.ArrayId(array), m.DeviceId(device), "an administrator says so")

    def change_remove(self, array: str, device: str) -> m.Change:
        return m.RemoveMember(m.ArrayId(array), m.DeviceId(device))

    def change_add(self, array: str, device: str) -> m.Change:
        return m.AddMember(m.ArrayId(array), new_member(device, -1))

    def change_replace(self, array: str, device: str, by: str = "") -> m.Change:
        """replace r0 d1 [d3]: by this spare, or by any."""
        spare = m.DeviceId(by) if by else None
        return m.ReplaceMember(m.ArrayId(array), m.DeviceId(device), spare)

    def change_re_add(self, array: str, device: str) -> m.Change:
        return m.ReAddMember(m.ArrayId(array), m.DeviceId(device), f"/dev/{device}")

    def change_erase(self, array: str, device: str) -> m.Change:
        """erase r0 d1: the disk, which says that it is, or was, this member."""
        return m.EraseDevice(m.ArrayId(array), m.DeviceId(device), f"/dev/{device}")

    def change_hand_over(self, target: str) -> m.Change:
        return m.HandOver(self._host(target).node)

    def change_admit(self, name: str) -> m.Change:
        """admit c2: bind the line of this host to its new UUID."""
        return m.BindVoter(self._host(name).name, self._host(name).node, replace=True)

    def change_add_voter(self, line: str) -> m.Change:
        return m.AddVoter(line, 100)

    def change_remove_voter(self, line: str) -> m.Change:
        return m.RemoveVoter(line)


def new_member(device: str, role: int) -> m.NewMember:
    return m.NewMember(m.DeviceId(device), f"/dev/{device}", MIB, SIZE_SECTORS, role)
