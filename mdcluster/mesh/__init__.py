"""The mesh: opaque payloads between all nodes, one TCP connection per pair of nodes and link.

- :mod:`mdcluster.mesh.mesh`      ``Mesh``: start, stop, send, reload, links
- :mod:`mdcluster.mesh.hello`     who a node says it is, what must agree, the frames
- :mod:`mdcluster.mesh.roster`    peers and links; who is let in, who dials
- :mod:`mdcluster.mesh.dial`      a connection we make        (ZeroMQ DEALER)
- :mod:`mdcluster.mesh.listener`  the connections made to us  (ZeroMQ ROUTER)
- :mod:`mdcluster.mesh.pump`      a ZeroMQ socket and its monitor in the asyncio loop
- :mod:`mdcluster.mesh.options`   socket options, all of them
- :mod:`mdcluster.mesh.refusals`  what was turned away: counted, said once
- :mod:`mdcluster.mesh.resolve`   host names

A live connection does not prove a live node: liveness is the core's heartbeat. The mesh only
says which peers it can send to. The protocol is in ``docs/PROTOCOL.md``.
"""
