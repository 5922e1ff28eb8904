"""The shell around the core: feeds it events, carries out its effects in order.

loop.py       one node's core, clock, timer, mesh and lane, in one asyncio loop
lane.py       effects in order: persist before send
store.py      the state directory
executor.py   driver, member and fencing effects, in queues (queues.py, standing.py)
local.py      this host's arrays and members
handler.py    the requests of the control socket
observe.py    what the core notifies: logs and the event stream
"""
