"""The kinds of events that the daemon tells (`events`), each with what it means.

docs/CONTROL.md shows how they are told.
"""

from typing import Final

KINDS: Final[dict[str, str]] = {
    "apply_failed": "this node could not apply a commit",
    "array_kept": "an array is in use and was left running at the end of a daemon",
    "array_left": "this node has left an array",
    "array_not_running": "an array that this node should run does not run",
    "asked": "this daemon was asked for a change",
    "changed": "what a commit has changed, as this node carries it out",
    "committed": "a commit of an array or of the cluster",
    "daemon_started": "this daemon has begun",
    "io_held": "this node holds its writes: its I/O lease is out",
    "io_resumed": "this node's writes go on",
    "md_hangs": "md of this host does not answer",
    "member_failed": "this node saw a member fail",
    "node_down": "a node is no longer connected",
    "node_evicted": "a node is to be fenced",
    "node_fenced": "a node is stopped for certain",
    "node_reported": "a node has told the new writer what it knows",
    "node_restarted": "a node has begun a new life",
    "node_suspect": "a node has not been heard of for a while",
    "node_up": "a node is connected",
    "refused": "a change was refused to who asked this daemon for it, or by the writer",
    "stalled": "this daemon was kept from running",
    "state_directory_failed": "this node cannot write its state directory",
    "state_directory_recovered": "it can again",
    "superblock_failed": "a superblock could not be written",
    "sync_finished": "a pass (resync, recovery, check) has ended",
    "sync_moved": "a pass has gone on",
    "sync_started": "a pass has begun or begun again",
    "waiting": "a pass waits, and for what",
    "writer_changed": "a node was elected",
    "writer_lost": "this node knows of no writer any more",
    "writer_stood_down": "this node is no longer the writer",
}
