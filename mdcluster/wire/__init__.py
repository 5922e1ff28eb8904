"""Messages and records as bytes: msgpack, driven by the type hints of frozen dataclasses.

- :mod:`mdcluster.wire.codec`   ``Codec(classes)``: ``encode`` and ``decode`` of a closed set
- :mod:`mdcluster.wire.schema`  type hints -> compiled encoders and decoders
- :mod:`mdcluster.wire.errors`  what goes wrong, with the path to where

The same bytes travel over the mesh, lie in the state directory and in the records on the
disks. All of it is untrusted when it comes back: whatever is read is checked completely, and
the only answers are an object of the set or a :class:`~mdcluster.wire.errors.WireError`.
"""
