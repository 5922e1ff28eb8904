"""All options of ``mdcadm`` in one table: mdadm's, each with its standing, and a few of our own.

Source of names, letters and modes: mdadm 4.0 to 4.6, ReadMe.c (long_options, short_opts) and
mdadm.c (what sets the mode, what is valid in which one). The help, the completions, the man page
and docs/MDADM.md are made from this table.
"""

from __future__ import annotations

from typing import Final

from .options import Kind, Mode, Option, Standing

_CLUSTER, _REFUSED, _OWN = Standing.CLUSTER, Standing.REFUSED, Standing.OWN
_CREATE: Final = (Mode.CREATE,)
_ASSEMBLE: Final = (Mode.ASSEMBLE,)
_MISC: Final = (Mode.MISC,)
_MANAGE: Final = (Mode.MANAGE,)
_GROW: Final = (Mode.GROW,)
_MONITOR: Final = (Mode.MONITOR,)
_INCREMENTAL: Final = (Mode.INCREMENTAL,)
_MADE: Final = (Mode.CREATE, Mode.BUILD)
_SHAPE: Final = (*_MADE, Mode.GROW)
_AUTO: Final = (*_MADE, Mode.ASSEMBLE, Mode.INCREMENTAL)

_SAME_ON_ALL: Final = "md reads and writes each member the same way on every node"
_NO_BACKUP: Final = "only a change of layout needs one, and the cluster makes none"
_CONTAINER: Final = "arrays of the cluster have superblocks of their own, no container"
_RAID5: Final = "only raid4, raid5 and raid6 can have one, which nodes cannot share"

# fmt: off
_MODES: Final = (
    Option("create", "make a new array", kind=Kind.MODE, forces=Mode.CREATE, letter="C",
           standing=_CLUSTER),
    Option("assemble", "start an array that exists", kind=Kind.MODE, forces=Mode.ASSEMBLE,
           letter="A", standing=_CLUSTER),
    Option("build", "make an array without superblocks", kind=Kind.MODE, forces=Mode.BUILD,
           letter="B", standing=_REFUSED,
           why="without superblocks nothing says which member is up to date"),
    Option("manage", "change the members of an array (implied)", kind=Kind.MODE,
           forces=Mode.MANAGE, standing=_CLUSTER),
    Option("grow", "change the number of devices, or the size used of each", kind=Kind.MODE,
           forces=Mode.GROW, letter="G", standing=_CLUSTER),
    Option("misc", "report on arrays and devices (implied)", kind=Kind.MODE, forces=Mode.MISC),
    Option("monitor", "report what happens to arrays", kind=Kind.MODE, forces=Mode.MONITOR,
           letter="F", also=("follow",), standing=_CLUSTER,
           why="run it on every node: the one beside the writer sends the alerts"),
    Option("incremental", "take a device that has appeared to where it belongs", kind=Kind.MODE,
           forces=Mode.INCREMENTAL, letter="I", standing=_REFUSED,
           why="the daemon finds the members of its arrays by itself"),
    Option("auto-detect", "have the kernel start arrays of old kinds", kind=Kind.MODE,
           forces=Mode.AUTODETECT, standing=_REFUSED,
           why="the kernel looks for 0.90 superblocks, which nodes cannot share"),
)

_REPORTS: Final = (
    Option("detail", "print all about an array", kind=Kind.ACTION, forces=Mode.MISC, letter="D",
           standing=_CLUSTER),
    Option("examine", "print the superblock on a member", kind=Kind.ACTION, forces=Mode.MISC,
           letter="E"),
    Option("examine-bitmap", "print the bitmaps on a member", kind=Kind.ACTION, forces=Mode.MISC,
           letter="X"),
    Option("examine-badblocks", "print the bad blocks of a member", kind=Kind.ACTION,
           forces=Mode.MISC),
    Option("query", "print in a line what a device has to do with md", kind=Kind.ACTION,
           forces=Mode.MISC, letter="Q"),
    Option("detail-platform", "print what hardware there is for firmware raid",
           kind=Kind.ACTION, sets=Mode.MISC, modes=_MISC, standing=_REFUSED, why=_CONTAINER),
    Option("wait", "wait until nothing is resynced", kind=Kind.ACTION, sets=Mode.MISC,
           letter="W", modes=_MISC, standing=_CLUSTER),
    Option("wait-clean", "wait until an array is marked clean", kind=Kind.ACTION,
           sets=Mode.MISC, modes=_MISC,
           why="it always is, as one of native metadata: what nodes write is in their bitmaps"),
    Option("udev-rules", "print udev rules for POLICY lines", "[FILE]", kind=Kind.ACTION,
           sets=Mode.MISC, modes=_MISC, standing=_REFUSED,
           why="what is done with members of the cluster is no matter of policies"),
    Option("dump", "copy superblocks to files in DIRECTORY", "DIRECTORY", kind=Kind.ACTION,
           forces=Mode.MISC, standing=_REFUSED,
           why="restored, they would undo what the cluster has agreed on"),
)

_OWN_REPORTS: Final = (
    Option("cluster", "print writer, term, lease, nodes and links", kind=Kind.LONE,
           forces=Mode.MISC, standing=_OWN),
    Option("mdstat", "print all arrays in the format of /proc/mdstat", kind=Kind.LONE,
           forces=Mode.MISC, standing=_OWN),
    Option("why", "print what waits, and for what", kind=Kind.SCOPED, forces=Mode.MISC,
           standing=_OWN),
    Option("events", "print what happens, one JSON object a line", kind=Kind.SCOPED,
           forces=Mode.MISC, standing=_OWN),
    Option("watch", "show cluster and arrays as they are, until q", kind=Kind.LONE,
           forces=Mode.MISC, standing=_OWN,
           why="on a terminal it sends some 3 bytes a second while nothing happens, 100 to 500 "
           "in a resync; in a pipe, on a dumb terminal and with --json it prints each change"),
    Option("history", "print what has happened, the oldest first", kind=Kind.SCOPED,
           forces=Mode.MISC, standing=_OWN,
           why="as the local node has seen it, and who asked for it"),
    Option("kinds", "only these kinds of events", "KIND,...", modes=_MISC, standing=_OWN),
    Option("check-timing", "print the proof that the timings are safe", kind=Kind.LONE,
           forces=Mode.MISC, standing=_OWN),
)

_OWN_CHANGES: Final = (
    Option("reload", "read clusterips again", kind=Kind.LONE, forces=Mode.MISC, standing=_OWN),
    Option("adopt", "take a plain md array in: all its active members", kind=Kind.ACTION,
           forces=Mode.MISC, standing=_OWN),
    Option("release", "give an array back: a plain md array again", kind=Kind.ACTION,
           forces=Mode.MISC, standing=_OWN),
    Option("pause", "copy nothing in an array (or in all), let no spare take over",
           kind=Kind.ACTION, forces=Mode.MISC, standing=_OWN),
    Option("resume", "end that: what is due begins", kind=Kind.ACTION, forces=Mode.MISC,
           standing=_OWN),
    Option("transfer", "make NODE the writer", "NODE", kind=Kind.NODE, forces=Mode.MISC,
           standing=_OWN),
    Option("fence-ack", "vouch that NODE is stopped for certain", "NODE", kind=Kind.NODE,
           forces=Mode.MISC, standing=_OWN),
    Option("admit", "let NODE vote again after it lost its state", "NODE", kind=Kind.NODE,
           forces=Mode.MISC, standing=_OWN),
)

_CHANGES: Final = (
    Option("stop", "stop an array on all nodes", kind=Kind.ACTION, sets=Mode.MISC, letter="S",
           modes=(*_MISC, *_MANAGE), standing=_CLUSTER,
           why="with --scan: all arrays of the cluster"),
    Option("run", "start it even if degraded; create it despite oddities", kind=Kind.ACTION,
           sets=Mode.MISC, letter="R", standing=_CLUSTER,
           modes=(*_MADE, *_ASSEMBLE, *_MANAGE, *_MISC, *_INCREMENTAL)),
    Option("readonly", "make an array read-only", kind=Kind.ACTION, sets=Mode.MISC, letter="o",
           modes=(*_CREATE, *_ASSEMBLE, *_MANAGE, *_MISC), standing=_CLUSTER,
           why="not while any node has it open; it lasts until --readwrite or --stop",
           refused={Mode.CREATE: "its first resync has to write: make it read-only after that"}),
    Option("readwrite", "make an array writable", kind=Kind.ACTION, sets=Mode.MISC, letter="w",
           modes=(*_MANAGE, *_MISC), standing=_CLUSTER),
    Option("action", "check, repair, or idle to end that", "WORD", kind=Kind.ACTION,
           forces=Mode.MISC, standing=_CLUSTER,
           why="frozen is refused: the writer alone says when md may copy"),
    Option("zero-superblock", "erase the superblock on a device", kind=Kind.ACTION,
           sets=Mode.MISC, modes=_MISC, standing=_CLUSTER,
           why="never that of a member of an array, in use or not: --remove it first; --force for "
           "one of a cluster that is no more"),
    Option("kill-subarray", "delete array N from a container", "N", kind=Kind.ACTION,
           sets=Mode.MISC, modes=_MISC, standing=_REFUSED, why=_CONTAINER),
    Option("update-subarray", "change array N of a container", "N", kind=Kind.ACTION,
           sets=Mode.MISC, modes=_MISC, standing=_REFUSED, why=_CONTAINER),
    Option("restore", "write back what --dump copied", "DIRECTORY", kind=Kind.ACTION,
           forces=Mode.MISC, standing=_REFUSED,
           why="it would undo what the cluster has agreed on"),
)

_MEMBERS: Final = (
    Option("rebuild-map", "make the map of partial arrays anew", modes=_INCREMENTAL, letter="r",
           standing=_REFUSED, why="the cluster keeps no map: its state is in the daemon"),
    Option("fail", "mark the devices that follow faulty", kind=Kind.MEMBER, sets=Mode.MANAGE,
           modes=(*_MANAGE, *_INCREMENTAL), letter="f", also=("set-faulty",), standing=_CLUSTER),
    Option("remove", "take the devices that follow out", kind=Kind.MEMBER, sets=Mode.MANAGE,
           modes=(*_MANAGE, *_INCREMENTAL), letter="r", standing=_CLUSTER),
    Option("add", "take the devices that follow in", kind=Kind.MEMBER, sets=Mode.MANAGE,
           modes=(*_MANAGE, *_GROW), letter="a", standing=_CLUSTER),
    Option("add-spare", "take them in as spares", kind=Kind.MEMBER, sets=Mode.MANAGE,
           modes=_MANAGE, standing=_CLUSTER, why="as --add: a spare takes a vacant role at once"),
    Option("re-add", "take members in again that were out", kind=Kind.MEMBER, sets=Mode.MANAGE,
           modes=_MANAGE, standing=_CLUSTER,
           why="while a role is vacant: what it missed is copied, removed meanwhile or not"),
    Option("replace", "have a spare take the role of the devices that follow", kind=Kind.MEMBER,
           sets=Mode.MANAGE, modes=_MANAGE, standing=_CLUSTER),
    Option("with", "the spares for that, in the same order", kind=Kind.MEMBER, modes=_MANAGE,
           sets=Mode.MANAGE, standing=_CLUSTER),
    Option("add-journal", "take a journal in", kind=Kind.MEMBER, sets=Mode.MANAGE, modes=_MANAGE,
           standing=_REFUSED, why=_RAID5),
    Option("cluster-confirm", "answer md's own cluster about a new device", kind=Kind.MEMBER,
           sets=Mode.MANAGE, modes=_MANAGE, standing=_REFUSED,
           why="nodes look for a new member by themselves, and each proves that it has the "
           "right one"),
    Option("write-mostly", "read the devices that follow only if need be", letter="W",
           modes=(*_MADE, *_MANAGE), standing=_REFUSED, why=_SAME_ON_ALL),
    Option("failfast", "give up on errors early", modes=(*_CREATE, *_MANAGE), standing=_REFUSED,
           why="all nodes are to agree on which errors fail a member; the deadline of a write is "
           "set in mdcluster.toml"),
    Option("nofailfast", "not so for the devices that follow", modes=_MANAGE, standing=_REFUSED,
           why="no member of the cluster has failfast"),
)

_SHAPES: Final = (
    Option("level", "raid1 or raid10", "LEVEL", modes=_SHAPE, letter="l",
           why="other levels are refused: only mirrors can be shared by nodes",
           refused={Mode.GROW: "an array keeps its level: its data would have to be moved"}),
    Option("raid-devices", "number of active devices", "N", modes=_SHAPE, letter="n",
           also=("raid-disks",), standing=_CLUSTER, why="a raid10 keeps its number"),
    Option("spare-devices", "number of spares", "N", modes=_CREATE, letter="x",
           also=("spare-disks",)),
    Option("chunk", "chunk size of raid10, in KiB or with K, M", "SIZE", modes=_SHAPE, letter="c",
           also=("rounding",),
           refused={Mode.GROW: "an array keeps its chunks: its data would have to be moved"}),
    Option("layout", "layout of raid10: n2", "LAYOUT", modes=_SHAPE, letter="p",
           also=("parity",), why="far and offset are refused: nodes cannot share them",
           refused={Mode.GROW: "an array keeps its layout: its data would have to be moved"}),
    Option("size", "how much of each device, in KiB or with K, M, G, T", "SIZE", modes=_SHAPE,
           letter="z", standing=_CLUSTER,
           why="with --grow never less than now: a node could still write what is cut off"),
    Option("array-size", "how much of an array is shown", "SIZE", modes=_GROW, letter="Z",
           standing=_REFUSED,
           why="it does not outlast a stop, and nodes would differ: use --size"),
    Option("data-offset", "where data begins on each device", "OFFSET",
           modes=(*_CREATE, *_GROW),
           why="not less than bitmaps and commits need; variable is refused",
           refused={Mode.GROW: "data would have to be moved"}),
    Option("assume-clean", "take the members as equal: no first resync",
           modes=(*_MADE, *_GROW),
           refused={Mode.GROW: "what is new of a larger array is resynced in windows"}),
    Option("write-zeroes", "write zeroes instead of a first resync", modes=_CREATE,
           standing=_REFUSED, why="only the writer writes to members, and it resyncs in windows"),
    Option("bitmap", "internal (default), clustered (the same), or none", "KIND", letter="b",
           modes=(*_SHAPE, *_ASSEMBLE),
           why="every node has a bitmap of its own on each member, always; with --grow, internal "
           "and clustered are answered as by mdadm where there is one, none is refused"),
    Option("bitmap-chunk", "size of what one bit stands for", "SIZE", modes=_SHAPE,
           refused={Mode.GROW: "bitmaps keep their shape"}),
    Option("write-behind", "bound of writes behind to write-mostly members", "[N]",
           modes=_SHAPE, standing=_REFUSED, why=_SAME_ON_ALL),
    Option("write-journal", "device for a journal", "DEVICE", modes=_CREATE, standing=_REFUSED,
           why=_RAID5),
    Option("consistency-policy", "resync, bitmap, journal or ppl", "POLICY", letter="k",
           modes=(*_CREATE, *_GROW),
           why="bitmap is what arrays of the cluster have; others are refused",
           refused={Mode.GROW: "arrays of the cluster have bitmaps, always"}),
    Option("logical-block-size", "logical block size in bytes", "BYTES", modes=_CREATE,
           standing=_REFUSED, why="superblocks of the cluster have no place for it"),
    Option("nodes", "number of nodes with a bitmap", "N", modes=(*_CREATE, *_ASSEMBLE, *_GROW),
           why="there is room for 32 nodes, whatever number is given",
           refused=dict.fromkeys((*_ASSEMBLE, *_GROW), "there is room for 32 nodes already")),
    Option("home-cluster", "name of the cluster", "NAME", modes=(*_CREATE, *_ASSEMBLE),
           why="it must be the cluster of the daemon"),
    Option("backup-file", "where to keep what a reshape moves", "FILE",
           modes=(*_GROW, *_ASSEMBLE), standing=_REFUSED, why=_NO_BACKUP),
    Option("invalid-backup", "go on although the backup file is of no use", modes=_ASSEMBLE,
           standing=_REFUSED, why=_NO_BACKUP),
    Option("continue", "go on with a reshape that was interrupted", modes=_GROW,
           standing=_REFUSED, why="a new writer goes on by itself with what was under way"),
    Option("freeze-reshape", "start it without going on with a reshape",
           modes=(*_ASSEMBLE, *_INCREMENTAL), standing=_REFUSED, why=_NO_BACKUP),
)

_WHICH: Final = (
    Option("metadata", "superblock version: 1.2", "VERSION", letter="e",
           modes=(*_CREATE, *_ASSEMBLE, *_MISC, *_INCREMENTAL),
           why="other versions are refused: the cluster's blocks stand behind a 1.2 superblock"),
    Option("name", "name of the array", "NAME", letter="N",
           modes=(*_CREATE, *_ASSEMBLE, *_MISC),
           why="that of its device in /dev/md; a host before it is left out"),
    Option("uuid", "UUID of the array", "UUID", modes=(*_CREATE, *_ASSEMBLE), letter="u"),
    Option("super-minor", "minor number in a 0.90 superblock", "N", modes=_ASSEMBLE, letter="m",
           standing=_REFUSED, why="only 0.90 superblocks have one: use --uuid or --name"),
    Option("scan", "all arrays", letter="s",
           modes=(*_ASSEMBLE, *_MISC, *_MONITOR, *_INCREMENTAL), standing=_CLUSTER),
    Option("config", "configuration file", "FILE", letter="c",
           modes=(*_ASSEMBLE, *_MISC, *_MONITOR, *_INCREMENTAL, *_CREATE),
           why="its ARRAY lines name arrays of the cluster; without it all of them are meant"),
    Option("daemonise", "go on in the background", modes=_MONITOR, letter="f",
           also=("daemonize",)),
    Option("force", "override what is refused for safety", letter="f",
           modes=(*_SHAPE, *_ASSEMBLE, *_MISC, *_MANAGE)),
    Option("update", "change a field of the superblocks", "FIELD", letter="U",
           modes=(*_ASSEMBLE, *_MISC, *_MANAGE), standing=_REFUSED,
           why="superblocks show what the cluster has agreed on; nothing else may change them"),
    Option("no-degraded", "do not start what is degraded", modes=(*_ASSEMBLE, *_INCREMENTAL),
           why="it never is without --run, with --scan either"),
    Option("auto", "create device nodes", "WORD", letter="a", modes=_AUTO,
           why="ignored, as in mdadm: udev does it"),
    Option("symlinks", "create links to device nodes", "WORD",
           modes=(*_MADE, *_ASSEMBLE), why="ignored, as in mdadm: udev does it"),
    Option("path", "where a device was that is gone", "PATH", modes=_INCREMENTAL),
    Option("test", "exit code tells the state of the array", letter="t",
           modes=(*_MISC, *_MANAGE, *_MONITOR),
           refused={Mode.MANAGE: "all nodes have to know a device before it can be named"}),
    Option("sparc2.2", "read superblocks of an old sparc kernel", modes=_MISC,
           standing=_REFUSED, why="only 0.90 superblocks have that fault"),
)

_MONITORING: Final = (
    Option("mail", "whom to tell", "ADDRESS", modes=_MONITOR, letter="m"),
    Option("program", "what to run at each event", "PROGRAM", modes=_MONITOR, letter="p",
           also=("alert",)),
    Option("increment", "percents between two RebuildNN events", "N", modes=_MONITOR, letter="r"),
    Option("delay", "seconds between two looks", "SECONDS", letter="d",
           modes=(*_MONITOR, *_SHAPE),
           refused=dict.fromkeys(_SHAPE, "when bits are cleared is the daemon's choice")),
    Option("oneshot", "look once, then end", modes=_MONITOR, letter="1"),
    Option("pid-file", "where to write the process id", "FILE", modes=_MONITOR, letter="i"),
    Option("syslog", "tell syslog", modes=_MONITOR, letter="y"),
    Option("everywhere", "each node's monitor sends its alerts, not only the writer's",
           modes=_MONITOR, standing=_OWN),
    Option("no-sharing", "do not move spares between arrays", forces=Mode.MONITOR),
)

_ANYWHERE: Final = (
    Option("brief", "ARRAY lines only", kind=Kind.ANY, letter="b"),
    Option("export", "KEY=value lines", kind=Kind.ANY, letter="Y"),
    Option("no-devices", "no devices= in ARRAY lines", kind=Kind.ANY),
    Option("prefer", "kind of device names to print, as by-id", "WORD", kind=Kind.ANY,
           why="ignored: devices have the names that the daemon found them by"),
    Option("homehost", "host that a new array's name begins with", "NAME", kind=Kind.ANY,
           why="any, <none> and <ignore> alone: an array of the cluster is at home on all of it"),
    Option("offroot", "nothing", kind=Kind.ANY, why="ignored, as in mdadm"),
    Option("json", "one JSON document", kind=Kind.ANY, standing=_OWN),
    Option("dry-run", "say what a change would do on which node, and change nothing",
           kind=Kind.ANY, standing=_OWN),
    Option("verbose", "say more", kind=Kind.ANY, letter="v"),
    Option("quiet", "say less", kind=Kind.ANY, letter="q"),
    Option("socket", "control socket of the daemon", "PATH", kind=Kind.ANY, standing=_OWN),
    Option("help", "this text, or with a mode before it, of that mode", kind=Kind.ANY, letter="h"),
    Option("help-options", "all options", kind=Kind.ANY),
    Option("version", "print the version", kind=Kind.ANY, letter="V"),
)

# fmt: on
GROUPS: Final = {
    "Modes": _MODES,
    "Reports": _REPORTS,
    "Reports on the cluster": _OWN_REPORTS,
    "Changes": _CHANGES,
    "Changes of the cluster": _OWN_CHANGES,
    "Members": _MEMBERS,
    "Shape of an array": _SHAPES,
    "Which array, and how": _WHICH,
    "Monitoring": _MONITORING,
    "Anywhere": _ANYWHERE,
}

OPTIONS: Final = {option.name: option for group in GROUPS.values() for option in group}
SYNONYMS: Final = {also: option.name for option in OPTIONS.values() for also in option.also}


def names_of(*kinds: Kind) -> tuple[str, ...]:
    """The options of these kinds, in the order of the table."""
    return tuple(option.name for option in OPTIONS.values() if option.kind in kinds)


def by_letter(letter: str, mode: Mode | None) -> Option | None:
    """What a letter stands for in a mode; None if nothing has that letter.

    Before a mode is set it is what sets one. A letter of other modes only is the first of those.
    """
    options = [option for option in OPTIONS.values() if option.letter == letter]
    for option in options:
        if mode in option.modes if mode else option.kind is Kind.ANY or _sets_mode(option):
            return option
    return options[0] if options else None


def _sets_mode(option: Option) -> bool:
    return option.forces is not None or option.sets is not None
