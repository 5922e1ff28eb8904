"""Verbs to wishes: reads the devices that a request names, then lets `build` decide."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from mdcluster.control.verbs import (
    ActionArgs,
    AdoptArgs,
    Args,
    AssembleArgs,
    CreateArgs,
    EraseArgs,
    GrowArgs,
    MemberArgs,
    NodeArgs,
    ReleaseArgs,
    ReplaceArgs,
    StillArgs,
    StopArgs,
    Verb,
)
from mdcluster.core.model import MEMBERS_MAX, AdoptArray, DeviceId
from mdcluster.core.view import NodeView
from mdcluster.members.look import Look
from mdcluster.requests import build
from mdcluster.requests.build import Wish
from mdcluster.requests.errors import RequestError
from mdcluster.requests.names import shown
from mdcluster.requests.views import names_of, states_of


class DeviceLook(Protocol):
    """Reads devices of this node; :class:`mdcluster.members.Members`."""

    @property
    def paths(self) -> Mapping[DeviceId, str]:
        """Where members of this node were seen last."""

    async def look(self, paths: Iterable[str]) -> dict[str, Look]: ...

    async def adoption(self, paths: Sequence[str], name: str | None, force: bool) -> AdoptArray:
        """The change that takes these members of a plain array in."""

    async def present(self) -> Mapping[DeviceId, str]:
        """Every member that is to be seen on this node right now, and where."""


class Requests:
    """For one daemon. view: what the core knows now."""

    def __init__(
        self,
        devices: DeviceLook,
        view: Callable[[], NodeView],
        now_s: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self._devices = devices
        self._view = view
        self._now_s = now_s

    async def wishes(self, verb: Verb, args: Args) -> tuple[Wish, ...]:
        """The changes to propose, in order; none if there is nothing to do.

        RequestError if the verb cannot be meant so; also for verbs that propose nothing.
        """
        if isinstance(args, CreateArgs):
            looks = await self._devices.look(build.devices_named(args))
            return (build.create(args, looks, states_of(self._view()), self._now_s()),)
        if isinstance(args, AdoptArgs):
            return (await self._adopt(args),)
        if isinstance(args, ReleaseArgs):
            return (build.release(args, states_of(self._view())),)
        if isinstance(args, AssembleArgs):
            looks = await self._devices.look(build.devices_named(args))
            return (build.assemble(args, states_of(self._view()), looks),)
        if isinstance(args, StopArgs):
            return (build.stop(args, states_of(self._view())),)
        if isinstance(args, StillArgs):
            return (build.still(verb, args, states_of(self._view()), self._now_s()),)
        if isinstance(args, ActionArgs):
            return (build.action(args, states_of(self._view())),)
        if isinstance(args, GrowArgs):
            looks = await self._devices.look(build.devices_named(args))
            return build.grow(args, states_of(self._view()), looks)
        if isinstance(args, ReplaceArgs):
            looks = await self._devices.look(build.devices_named(args))
            places = build.Places(self._devices.paths, {})
            return (build.replacement(args, states_of(self._view()), looks, places),)
        if isinstance(args, EraseArgs):
            looks = await self._devices.look(build.devices_named(args))
            return (build.erase(args, states_of(self._view()), looks),)
        if isinstance(args, MemberArgs):
            return await self._members(verb, args)
        if isinstance(args, NodeArgs) and verb in (Verb.TRANSFER, Verb.ADMIT):
            return (self._node(verb, args),)
        raise RequestError(f"{verb} proposes nothing")

    def _node(self, verb: Verb, args: NodeArgs) -> Wish:
        view = self._view()
        if verb is Verb.TRANSFER:
            return build.transfer(args, names_of(view))
        return build.admit(args, view.cluster, names_of(view))

    async def _adopt(self, args: AdoptArgs) -> Wish:
        """MdclusterError tells what stands against one of the members."""
        paths = tuple(dict.fromkeys(args.devices))
        if bad := [path for path in paths if not path.startswith("/")]:
            raise RequestError(f"{shown(bad[0])} is no absolute path of a device")
        if not 0 < len(paths) <= MEMBERS_MAX:
            raise RequestError(f"{len(paths)} devices to adopt: name 1 to {MEMBERS_MAX}")
        change = await self._devices.adoption(paths, args.name, args.force)
        return build.adopted(args, change, states_of(self._view()))

    async def _members(self, verb: Verb, args: MemberArgs) -> tuple[Wish, ...]:
        looks = await self._devices.look(build.devices_named(args))
        arrays = states_of(self._view())
        if verb is Verb.ADD:
            return (build.add(args, arrays, looks),)
        kinds = {Verb.FAIL: build.fail, Verb.REMOVE: build.remove, Verb.READD: build.re_add}
        if verb not in kinds:
            raise RequestError(f"{verb} takes no member")
        if args.device in build.KEYWORDS:
            present = await self._devices.present()
        else:
            present = {}
        return kinds[verb](args, arrays, looks, build.Places(self._devices.paths, present))
