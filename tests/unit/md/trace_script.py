"""Scenarios of which traces are recorded: one step a line, played by `trace_player`.

A step is a call of the port (see mdcluster/md/driver.py), or what programs and disks do. Blocks of
64 KiB, 24 of them; two to a chunk of the bitmap. Members and disks have numbers; what is written is
a letter, which also names the write: `write a 3`, in the background. A call after `&` may have
to wait, so nobody waits for it.

    assemble LEVEL DISKS [blocks N] [read_only]   with members 0 ... DISKS - 1 in sync
    add N ROLE [spare|replacement|by_bitmap]      recovering, unless a spare
    put N LETTER LO HI                            into a member, behind the back of the driver
    put_slot N SLOT CHUNK...                      the bits of a slot
    bits N                                        gives the set bits of the own slot
    break_writes N / break_reads N / heal N       of the data area
    restart                                       the daemon ends, a new one inherits
"""

from typing import Final

START: Final = """
pin on
run
activate
"""
RELEASE: Final = """
fail 1
unblock 1
activate
"""
RAID1: Final = f"assemble 1 2{START}"
RAID1_OF_3: Final = f"assemble 1 3{START}"

SCRIPTS: Final = {
    "start": """
assemble 1 2
pin on
run
activate
read 0
write b 5
bits 0
bits 1
read 5
stop
""",
    "failed write": f"""
{RAID1}
write a 0
break_writes 1
write b 0
write c 8
read 0
read 8
heal 1
fail 1
read 0
unblock 1
activate
read 0
write d 3
remove 1
write e 3
""",
    "activate before unblock": f"""
{RAID1}
break_writes 1
write a 0
activate
fail 1
activate
write b 2
unblock 1
activate
""",
    "unblock before fail": f"""
{RAID1}
break_writes 1
write a 0
unblock 1
activate
stop
{RELEASE}
stop
""",
    "fail by commit": f"""
{RAID1}
fail 0
write a 0
read 0
unblock 0
write b 1
activate
remove 0
stop
""",
    "two failures": f"""
{RAID1_OF_3}
break_writes 1
write a 0
break_writes 2
{RELEASE}
write b 1
write c 2
fail 2
unblock 2
activate
remove 1
remove 2
write d 3
""",
    "a failure while another is released": f"""
{RAID1_OF_3}
break_writes 1
break_writes 2
write a 0
fail 1
unblock 1
activate
write b 1
fail 2
unblock 2
activate
""",
    "last good member": f"""
{RAID1}
write a 0
fail 0
unblock 0
activate
fail 1
break_writes 1
write b 8
unblock 1
activate
read 0
heal 1
write c 9
""",
    "read error": f"""
{RAID1}
write a 0
break_reads 0
read 0
write b 1
fail 0
unblock 0
activate
read 0
remove 0
""",
    "read error of the last one": f"""
{RAID1}
write a 0
{RELEASE}
remove 1
break_reads 0
read 0
write b 1
heal 0
read 0
""",
    "hold": f"""
{RAID1}
hold 2 4
write a 3
write b 0
write c 4
read 3
hold 4 6
write d 5
hold 0 0
hold_all on
write e 8
hold 10 12
write f 11
hold_all off
hold 0 0
""",
    "hold over a failed write": f"""
{RAID1}
break_writes 1
write a 0
& hold 0 24
write b 2
{RELEASE}
hold 0 0
write c 4
""",
    "hold before run": """
assemble 1 2
pin on
hold 4 8
run
activate
write a 5
write b 9
hold 0 0
""",
    "resync": f"""
{RAID1}
put 1 z 0 24
start_sync resync 0
limit_sync 24
stop_sync
set_bits 8 24
next_dirty 0
start_sync resync 8
limit_sync 12
write a 2
write b 14
write c 10
limit_sync 13
next_dirty 13
limit_sync 24
stop_sync
next_dirty 0
read 20
""",
    "resync that was interrupted": f"""
{RAID1}
put 1 z 0 24
set_bits 0 24
start_sync resync 0
limit_sync 5
stop_sync
next_dirty 4
put 1 y 4 5
start_sync resync 4
limit_sync 24
stop_sync
""",
    "resync above what is dirty": f"""
{RAID1}
put 1 z 0 24
set_bits 4 8
start_sync resync 8
start_sync resync 4
limit_sync 24
stop_sync
""",
    "resync meets a bad member": f"""
{RAID1_OF_3}
put 1 z 0 24
set_bits 0 24
start_sync resync 0
limit_sync 4
break_writes 1
limit_sync 8
write a 0
limit_sync 8
stop_sync
{RELEASE}
remove 1
start_sync resync 0
limit_sync 24
stop_sync
""",
    "a write held while it copies": f"""
{RAID1_OF_3}
set_bits 0 24
start_sync resync 0
limit_sync 4
break_writes 1
write a 0
limit_sync 8
{RELEASE}
stop_sync
""",
    "a member faulty in a resync": f"""
{RAID1_OF_3}
put 2 z 0 24
set_bits 0 24
start_sync resync 0
limit_sync 4
{RELEASE}
limit_sync 8
stop_sync
start_sync resync 0
limit_sync 8
limit_sync 24
stop_sync
next_dirty 0
""",
    "recovery": f"""
{RAID1}
write a 0
write b 20
{RELEASE}
remove 1
put 2 z 0 24
add 2 1
write c 3
read 3
start_sync resync 0
start_sync recover 0
limit_sync 8
write d 1
write e 22
limit_sync 16
stop_sync
put 2 y 0 1
start_sync recover 16
limit_sync 24
stop_sync
read 0
take_in 2
fail 0
unblock 0
activate
read 20
""",
    "recovery beside one that differs": f"""
{RAID1_OF_3}
put 1 z 0 24
fail 2
unblock 2
activate
remove 2
put 3 y 0 24
add 3 2
start_sync recover 0
limit_sync 24
stop_sync
take_in 3
""",
    "recovery of a member that fails": f"""
{RAID1}
write a 0
{RELEASE}
remove 1
add 2 1
start_sync recover 0
limit_sync 8
break_writes 2
write b 0
limit_sync 16
stop_sync
fail 2
unblock 2
activate
remove 2
write c 1
""",
    "added by bitmap": f"""
{RAID1}
write a 0
{RELEASE}
write b 10
remove 1
put 1 z 0 2
add 1 1 by_bitmap
write c 20
start_sync recover 0
next_dirty 0
limit_sync 24
stop_sync
take_in 1
read 10
""",
    "added while it copies": f"""
{RAID1_OF_3}
{RELEASE}
remove 1
put 2 z 0 24
set_bits 0 24
start_sync resync 0
limit_sync 4
add 3 1
limit_sync 8
stop_sync
start_sync resync 0
start_sync recover 0
limit_sync 24
stop_sync
take_in 3
next_dirty 0
start_sync resync 0
limit_sync 24
stop_sync
""",
    "spare": f"""
{RAID1}
add 2 -1 spare
write a 0
fail 1
unblock 1
activate
remove 1
write b 1
remove 2
add 2 1
start_sync recover 0
limit_sync 24
stop_sync
take_in 2
""",
    "replacement": f"""
{RAID1}
write a 0
put 2 z 0 24
add 2 0 replacement
write b 3
read 3
start_sync recover 0
limit_sync 8
limit_sync 24
stop_sync
take_in 2
fail 0
unblock 0
activate
remove 0
write c 5
read 5
""",
    "bits of a dead node": f"""
{RAID1}
put 1 z 0 24
put_slot 0 1 1 4 5
put_slot 1 2 9
merge_bits 1 2
bits 0
bits 1
next_dirty 0
start_sync bitmap 0
limit_sync 24
stop_sync
next_dirty 0
""",
    "own bits of before": f"""
put_slot 1 0 0 3
put 1 z 0 24
{RAID1}
read 0
next_dirty 1
start_sync bitmap 0
limit_sync 4
limit_sync 24
stop_sync
""",
    "check and repair": f"""
{RAID1_OF_3}
write a 0
put 1 z 4 6
put 2 y 5 7
start_sync check 0
limit_sync 5
limit_sync 24
stop_sync
start_sync repair 0
limit_sync 8
write b 4
limit_sync 24
stop_sync
start_sync check 4
limit_sync 24
stop_sync
""",
    "the gate": f"""
{RAID1}
put 1 z 0 24
set_bits 0 24
start_sync resync 0
limit_sync 4
shut_gate
limit_sync 8
write a 20
stop_sync
""",
    "more roles, then fewer": f"""
{RAID1}
write a 0
raid_disks 3
write b 1
add 5 2
start_sync recover 0
limit_sync 24
raid_disks 4
stop_sync
take_in 5
raid_disks 2
fail 0
unblock 0
activate
remove 0
raid_disks 2
write c 2
""",
    "a larger size": f"""
assemble 1 2 blocks 16
{START}
put 1 z 16 24
size 24
write a 20
set_bits 16 24
start_sync resync 16
limit_sync 24
stop_sync
size 24 visible
write b 20
size 16
""",
    "a degraded array's bits": f"""
{RAID1}
{RELEASE}
write a 4
next_dirty 0
remove 1
start_sync resync 0
limit_sync 24
stop_sync
bits 0
add 1 1 by_bitmap
start_sync recover 0
limit_sync 24
stop_sync
take_in 1
next_dirty 0
""",
    "restart": f"""
{RAID1}
write a 0
restart
write b 1
read 0
activate
hold 0 0
stop
""",
    "restart while a write is held": f"""
{RAID1}
break_writes 1
write a 0
restart
write b 1
{RELEASE}
hold 0 0
remove 1
""",
    "restart after a failure was committed": f"""
{RAID1}
break_writes 1
write a 0
fail 1
restart
unblock 1
activate
hold 0 0
remove 1
""",
    "restart while it copies": f"""
{RAID1}
put 1 z 0 24
set_bits 0 24
start_sync resync 0
limit_sync 8
restart
limit_sync 16
next_dirty 0
set_bits 8 24
start_sync resync 0
limit_sync 24
stop_sync
activate
hold 0 0
""",
    "refusals": f"""
{RAID1}
remove 0
take_in 7
fail 7
unblock 7
add 5 1
limit_sync 8
start_sync check 0
start_sync check 0
stop_sync
stop_sync
""",
    "spectator": """
assemble 1 2 read_only
pin on
run
read 0
write a 0
fail 1
unblock 1
activate
read 0
set_bits 0 4
start_sync check 0
remove 1
stop
""",
    "raid10": """
assemble 10 4
pin on
run
activate
write a 0
write b 9
break_writes 1
write c 0
write d 3
fail 1
unblock 1
activate
remove 1
put 5 z 0 24
add 5 1
write e 4
start_sync recover 0
limit_sync 8
limit_sync 24
stop_sync
take_in 5
set_bits 4 8
put 3 y 0 24
start_sync resync 4
limit_sync 8
limit_sync 24
stop_sync
fail 0
unblock 0
activate
read 0
read 9
""",
}


def steps(script: str) -> list[str]:
    """The steps of a script."""
    return [line.strip() for line in script.splitlines() if line.strip()]
