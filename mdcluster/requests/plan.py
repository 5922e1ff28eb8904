"""A plan of the core in words: what each node would do for a change. Pure.

What md would be told is found by the planner that tells it (:mod:`mdcluster.md.plan`), from the
state as it is to the one that would be committed; the rest follows the pipeline of
`mdcluster.core.commits`.
"""

from collections.abc import Iterator, Sequence

from mdcluster.control.plan import ChangePlan, NodePlan, PlanData
from mdcluster.core.arrays import needs_sync
from mdcluster.core.model import (
    AddMember,
    AdoptArray,
    ArrayState,
    Change,
    ClusterState,
    CreateArray,
    EraseDevice,
    HandOver,
    Life,
    NewMember,
    Outlook,
    Plan,
    ReAddMember,
    ReleaseArray,
    SetSize,
)
from mdcluster.core.rounds import Kind
from mdcluster.md import plan as md
from mdcluster.metadata.superblock import SECTOR
from mdcluster.requests.differences import Names, differences

NO_SLOT = 0


def in_words(changes: Sequence[Change], plan: Plan, names: Names) -> PlanData:
    """What these changes would do, as the writer has found out."""
    told = []
    for change, outlook in zip(changes, plan.outlooks, strict=True):
        known = {new.device: new.path for new in _new_members(change)}
        here = Names(names.writer, names.nodes, {**known, **names.paths}, names.voters)
        told.append(_change(change, outlook, here))
    return PlanData(names.writer, tuple(told), plan.waits)


def nothing(names: Names) -> PlanData:
    """There is nothing to do."""
    return PlanData(names.writer, ())


def taken_as_dead(node: str, names: Names) -> PlanData:
    """--fence-ack: no commit by itself, but all that waited for the fencing goes on."""
    goes_on = f"what waits for {node} to be fenced goes on: its lives end in every array"
    return PlanData(
        names.writer,
        (
            ChangePlan(
                "FenceAck",
                nodes=(NodePlan(names.writer, (f"takes {node} as fenced, on your word",)),),
                afterwards=(goes_on, "if it still runs, its late writes destroy data"),
            ),
        ),
    )


def read_again(names: Names) -> PlanData:
    """--reload: whether the files are right is known only when they are read."""
    follow = f"once most voters have read the same clusterips, {names.writer} follows it: one voter"
    return PlanData(
        names.writer,
        (ChangePlan("Reload", afterwards=(f"{follow} after the other is added or removed",)),),
    )


def _new_members(change: Change) -> Sequence[NewMember]:
    if isinstance(change, CreateArray | AdoptArray):
        return change.members
    if isinstance(change, AddMember):
        return (change.member,)
    return ()


def _change(change: Change, outlook: Outlook, names: Names) -> ChangePlan:
    kind = type(change).__name__
    if isinstance(change, HandOver):
        return _hand_over(kind, change, names)
    before, after = outlook.before, outlook.after
    first = tuple(_first(change, outlook, names))
    entry = tuple(differences(before, after, names))
    if not entry:
        return ChangePlan(kind, first)
    voters = ", ".join(names.voters)
    least = len(names.voters) // 2 + 1
    return ChangePlan(
        kind,
        first,
        entry,
        f"{least} of {voters} have stored the entry",
        tuple(_nodes(outlook, names)),
        _release(change, outlook, names),
        tuple(_afterwards(change, outlook, names)),
    )


def _hand_over(kind: str, change: HandOver, names: Names) -> ChangePlan:
    target = names.nodes.get(change.target, change.target)
    if target == names.writer:
        return ChangePlan(kind)
    lets_go = "ends copying after the present window, shuts its gate for good, gives the word"
    return ChangePlan(
        kind,
        (NodePlan(names.writer, (lets_go,)), NodePlan(target, ("stands for election",))),
        (f"writer: {names.writer} -> {target}",),
        f"{len(names.voters) // 2 + 1} of {', '.join(names.voters)} vote for {target}",
        (NodePlan(target, ("commits every entry again in its own term, then opens its gate",)),),
        f"done once {target} is writer; a pass goes on at its checkpoint",
    )


# --- before the commit ---------------------------------------------------------------------------


def _first(change: Change, outlook: Outlook, names: Names) -> Iterator[NodePlan]:
    """The round that the change needs."""
    devices = [names.device(new.device) for new in _new_members(change)]
    if isinstance(change, ReAddMember | EraseDevice):
        devices = [names.device(change.device)]
    told = ", ".join(devices)
    if outlook.need == Kind.CLAIM:
        yield NodePlan(names.writer, (f"writes a nonce to {told}",))
        steps: tuple[str, ...] = (f"finds {told} and reads the nonce back, or it is refused",)
    elif outlook.need == Kind.STOP:
        steps = ("stops it in md, or refuses while it is in use there",)
    elif outlook.need == Kind.READONLY:
        steps = ("admits no more writes, or refuses while it is in use there",)
    elif outlook.need == Kind.ERASE:
        steps = (f"its gate: takes superblocks and the cluster's blocks off {told}",)
    elif outlook.need == Kind.OPEN:
        steps = ("has every member that is needed (tried just now)",)
    else:
        return
    for life in sorted(outlook.asked, key=names.node):
        yield NodePlan(names.node(life), steps)


# --- what is done then ---------------------------------------------------------------------------


def _nodes(outlook: Outlook, names: Names) -> Iterator[NodePlan]:
    """The writer's projection, then what md is told on each node that runs the array."""
    before, after = outlook.before, outlook.after
    if isinstance(after, ClusterState):
        return
    assert before is None or isinstance(before, ArrayState)
    plain = "plain superblocks" if after.released else "superblocks"
    count = len(after.writable)
    yield NodePlan(
        names.writer,
        (f"its gate: the commit in its ring, then {plain}, on {count} member(s)",),
    )
    for life in sorted(outlook.must, key=names.node):
        steps = tuple(_md_steps(before, after, life, names))
        yield NodePlan(names.node(life), steps or ("md: nothing to do",))


def _md_steps(
    before: ArrayState | None, after: ArrayState, life: Life, names: Names
) -> Iterator[str]:
    status = md.expected_status(before, life) if before is not None else None
    paths = {m.device: names.paths.get(m.device, m.device) for m in after.members}
    for step in md.plan(status, after, life, paths, slot_offset_sectors=NO_SLOT):
        yield f"md: {_step(step, names)}"


def _step(step: md.Step, names: Names) -> str:
    match step:
        case md.Start(state, paths):
            slot = "with a bitmap slot of its own, writes held until all have it"
            return f"assemble and run {state.name} of {len(paths)} member(s), {slot}"
        case md.Stop():
            return "stop (done already by then)"
        case md.Fail(_, device):
            return f"set {names.device(device)} faulty, hold its failed writes"
        case md.Remove(_, device):
            return f"remove {names.device(device)}"
        case md.Add(_, member):
            what = "as a spare" if member.role < 0 else f"as a write target, role {member.role}"
            return f"add {names.device(member.device)} {what}"
        case md.TakeIn(_, devices):
            return f"take in {', '.join(map(names.device, devices))}"
        case md.RaidDisks(_, raid_disks):
            return f"{raid_disks} raid devices"
        case md.ReadOnly(_, on):
            return "no write of an application any more (done already)" if on else "writable"
        case md.Size(_, size_sectors, visible):
            shown = "shown to applications" if visible else "not shown to applications yet"
            return f"use {size_sectors * SECTOR // 1024}K of each member, {shown}"


def _release(change: Change, outlook: Outlook, names: Names) -> str:
    must = ", ".join(sorted(map(names.node, outlook.must)))
    if isinstance(change, ReleaseArray):
        return "done once every member is plain and the cluster has forgotten the array"
    if not must:
        return "done once it is committed"
    return f"held writes go on, and it is done, once {must} have applied it or are fenced"


def _afterwards(change: Change, outlook: Outlook, names: Names) -> Iterator[str]:
    after = outlook.after
    if not isinstance(after, ArrayState):
        return
    if isinstance(change, SetSize) and after.shown_sectors is not None:
        yield "the new size is shown to applications by a commit of its own"
    kind = after.sync.kind if after.sync else needs_sync(after)
    if kind is not None and after.running and after.still:
        yield f"{kind.value} waits until it is neither paused nor read-only"
    elif kind is not None and after.running:
        yield f"{kind.value} by {names.writer}, window by window, which all others hold"
