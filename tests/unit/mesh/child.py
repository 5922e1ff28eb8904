"""A mesh in a process of its own, to be killed: ``child.py NUMBER BOOT_COUNT PEER_PORT``.

Prints its port, then sends back everything it receives until its standard input ends.
"""

import asyncio
import dataclasses
import sys

from mdcluster.mesh.mesh import Mesh
from mdcluster.mesh.roster import Line
from tests.unit.mesh.kit import LIMITS, hello


async def run(number: int, boot_count: int, peer: int, peer_port: int) -> None:
    def echo(node: str, payload: bytes) -> None:
        mesh.send(node, payload)

    mesh = Mesh(
        hello(number, boot_count=boot_count),
        Line(f"n{number}", (("127.0.0.1", 0),)),
        (Line(f"n{peer}", (("127.0.0.1", peer_port),)),),
        on_message=echo,
        on_up=lambda _: None,
        on_down=lambda *_: None,
        limits=dataclasses.replace(LIMITS, path_ms=600),
    )
    await mesh.start()
    print(mesh.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await mesh.stop()


if __name__ == "__main__":
    asyncio.run(run(*map(int, sys.argv[1:5])))
