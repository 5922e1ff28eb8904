"""Effects and messages in words: one short line each, the same on every run.

Positions and sizes are printed in MiB (`16M`), stamps as `term.seq`, the second life of node
a as `a'`.
"""

from collections.abc import Callable
from typing import Any

from mdcluster.core import effects as fx
from mdcluster.core import messages as msg
from mdcluster.core.model import ArrayState, Change, ClusterState, Life, Plan, Slot, Stamp

MIB = 2048
"""Sectors."""


def life(x: Life) -> str:
    """Boot ids of scenarios are 1@a, 2@a, ...; a former life kept for its bits has a tilde."""
    boot, _, rest = x.boot_id.partition("@")
    return str(x.node) + "'" * (int(boot) - 1) + ("~" if "~" in rest else "")


def lives(xs: tuple[Life, ...] | list[Life]) -> str:
    return " ".join(life(x) for x in sorted(xs)) or "nobody"


def stamp(x: Stamp) -> str:
    return f"{x.term}.{x.seq}"


def at(sectors: int) -> str:
    return f"{sectors // MIB}M" if sectors % MIB == 0 else f"{sectors}s"


def span(lo: int, hi: int) -> str:
    return f"{at(lo)}-{at(hi)}" if lo < hi else "nothing"


def change(x: Change) -> str:
    """The change as a script would name it."""
    words = [type(x).__name__]
    for name in ("array", "device", "life", "name", "node", "target", "kind", "position_sectors"):
        value = getattr(x, name, None)
        if isinstance(value, Life):
            words.append(life(value))
        elif name == "position_sectors" and value is not None:
            words.append(at(value))
        elif value is not None and value not in words:
            words.append(str(value))
    return " ".join(words)


def plan(x: Plan | None) -> list[str]:
    """What a dry run tells: who does what first, the state it leads to, who has to apply it."""
    out = []
    for outlook in x.outlooks if x is not None else ():
        need = f"{outlook.need} by {lives(outlook.asked)}, then " if outlook.need else ""
        same = outlook.after == outlook.before
        state = "no change" if same else "; ".join(entry_state(outlook.after))
        out.append(f"({need}{state}; applied by {lives(outlook.must)})")
    return out + [f"waits for {why}" for why in (x.waits if x is not None else ())]


def slot(x: Slot) -> str:
    return f"{x.index}={life(x.life)}{' dirty' if x.dirty else ''}"


def entry_state(x: ArrayState | ClusterState) -> list[str]:
    """A committed state in a few lines."""
    if isinstance(x, ClusterState):
        voters = "voters " + ", ".join(f"{v.name}={v.node or 'nobody'}" for v in x.voters)
        gone = ", ".join(f"{g.array} {stamp(g.stamp)}" for g in x.gone)
        return [voters, f"gone {gone}"] if gone else [voters]
    holders = {m.role: m.device for m in x.in_sync}
    members = ", ".join(
        f"{m.device} {m.state}"
        + (f" for {holders[m.role]}" if m.replacement else "")
        + (f" from {at(m.recovery_sectors)}" if m.recovery_sectors else "")
        for m in x.members
    )
    idle = "released" if x.released else "stopped"
    out = [members, f"runs on {lives(x.running)}" if x.active else idle]
    out += ["read-only"] * x.readonly + ["paused"] * (x.paused_s > 0)
    if x.slots:
        out.append("slots " + ", ".join(slot(s) for s in x.slots))
    if x.resync_sectors is not None:
        out.append(f"not known to be equal from {at(x.resync_sectors)}")
    if x.sync is not None:
        out.append(f"{x.sync.kind} {x.sync.serial} at {at(x.sync.position_sectors)}")
    if x.shown_sectors is not None:
        out.append(f"{at(x.shown_sectors)} of {at(x.size_sectors)} shown")
    if x.mismatched_sectors:
        out.append(f"{at(x.mismatched_sectors)} found different")
    return out


def _prepares(x: fx.PrepareDevices | msg.Prepare) -> list[str]:
    return ["to stop"] * x.stopping + ["to be read-only"] * x.readonly


def _stamped(x: Any) -> str:
    entry = getattr(x, "entry", x)
    return f"{entry.key} {stamp(entry.stamp)}"


def _hold(x: Any) -> str:
    problem = f": {x.problem}" if getattr(x, "problem", "") else ""
    return f"{x.array} {span(x.lo_sectors, x.hi_sectors)}{problem}"


def _no(_: Any) -> str:
    return ""


_EFFECTS: dict[type, Callable[[Any], str]] = {
    fx.PersistPromise: lambda e: f"{e.promise.term} {e.promise.voted_for or '-'}",
    fx.PersistEntry: _stamped,
    fx.OpenGate: lambda e: f"term {e.term}",
    fx.ShutGate: _no,
    fx.AllowFeeding: lambda e: "for good" if e.until_ms == fx.ALWAYS else f"until {e.until_ms}",
    fx.WriteSuperblocks: _stamped,
    fx.WriteNonces: lambda e: " ".join([e.array, *(m.device for m in e.members)]),
    fx.DropNonces: _no,
    fx.EraseSuperblock: lambda e: f"{e.device} of {e.array}",
    fx.PrepareDevices: lambda e: " ".join([e.array, *(c.device for c in e.claims), *_prepares(e)]),
    fx.ForgetPrepared: _no,
    fx.Apply: _stamped,
    fx.LeaveArray: lambda e: e.array + ("" if e.force else " if not in use"),
    fx.Unblock: lambda e: " ".join([e.array, *e.devices]),
    fx.SampleStates: lambda e: e.array,
    fx.Activate: lambda e: e.array,
    fx.HoldRange: _hold,
    fx.HoldAll: lambda e: "on" if e.on else "off",
    fx.PinReads: lambda e: f"{e.array} {'on' if e.on else 'off'}",
    fx.ProbeMember: lambda e: f"{e.array} {e.device}",
    fx.SetBits: lambda e: f"{e.array} {span(e.lo_sectors, e.hi_sectors)}",
    fx.MergeBits: lambda e: f"{e.array} of slots {' '.join(map(str, e.slots))}",
    fx.ZeroSlot: lambda e: f"{e.array} {e.index}={life(e.life)}",
    fx.StartSync: lambda e: f"{e.array} {e.kind} at {at(e.position_sectors)}",
    fx.LimitSync: lambda e: f"{e.array} up to {at(e.hi_sectors)}",
    fx.StopSync: lambda e: e.array,
    fx.Fence: lambda e: life(e.life),
    fx.Answer: lambda e: " ".join(
        [f"{e.proposal} {e.state}" + (f": {e.text}" if e.text else ""), *plan(e.plan)]
    ),
    fx.Stopped: lambda e: "leaving " + " ".join(e.running) if e.running else "",
    fx.Notify: lambda e: " ".join([e.kind, *(f"{k}={v}" for k, v in e.facts)]),
}

_MESSAGES: dict[type, Callable[[Any], str]] = {
    msg.PreVote: lambda m: f"term {m.term}",
    msg.PreVoteReply: lambda m: "granted" if m.granted else f"refused: {m.why}",
    msg.RequestVote: lambda m: (
        f"term {m.term}" + (f", named by the writer of {m.transfer}" if m.transfer else "")
    ),
    msg.Vote: lambda m: f"term {m.term} granted" if m.granted else f"refused: {m.why}",
    msg.Transfer: lambda m: f"term {m.term} to {m.target}",
    msg.Beat: lambda m: f"round {m.round}",
    msg.BeatAck: lambda m: f"round {m.round}",
    msg.Query: _no,
    msg.Report: lambda m: "; ".join(
        [
            "runs " + (" ".join(m.running) or "nothing"),
            *(f"{h.array} complete {at(h.complete_sectors)}" for h in m.holds),
        ]
    ),
    msg.Propose: lambda m: change(m.change),
    msg.ProposeReply: lambda m: m.state + (f": {m.text}" if m.text else ""),
    msg.Consult: lambda m: ", then ".join(change(x) for x in m.changes),
    msg.Advice: lambda m: " ".join([*plan(m.plan), m.refusal]).rstrip(),
    msg.Replicate: _stamped,
    msg.ReplicateAck: _stamped,
    msg.Prepare: lambda m: " ".join([m.array, *(c.device for c in m.claims), *_prepares(m)]),
    msg.PrepareReply: lambda m: (
        m.problem or "; ".join(f"misses {d}: {w}" for d, w in m.missing) or "ok"
    ),
    msg.Abandon: _no,
    msg.ApplyEntry: _stamped,
    msg.ApplyAck: lambda m: _stamped(m) + (f": {m.problem}" if m.problem else ""),
    msg.Release: _stamped,
    msg.Probe: lambda m: f"{m.array} {m.device}",
    msg.ProbeReply: lambda m: m.problem or "ok",
    msg.Hold: lambda m: f"{_hold(m)}, complete {at(m.complete_sectors)}",
    msg.HoldAck: lambda m: f"{_hold(m)}",
    msg.Vouch: lambda m: m.life.node,
}

KINDS = frozenset(t.__name__ for t in (*_EFFECTS, *_MESSAGES))
"""What may be watched."""


def effect(x: fx.Effect) -> str:
    return f"{type(x).__name__} {_EFFECTS[type(x)](x)}".rstrip()


def message(x: msg.Message) -> str:
    return f"{type(x).__name__} {_MESSAGES[type(x)](x)}".rstrip()
