"""Fails a member through this guest's daemon, and tells when it was asked and answered.

    python tests/vm/bench/inside/propose.py ARRAY DEVICE

Needs mdcluster. A question before has loaded everything: only the change is timed.
"""

import json
import sys
import time
import uuid

from mdcluster.control.client import Client, socket_path
from mdcluster.control.verbs import ArrayArgs, MemberArgs, Verb


def main(array: str, device: str) -> None:
    with Client(socket_path()) as client:
        client.call(Verb.DETAIL, ArrayArgs(array))
        args = MemberArgs(str(uuid.uuid4()), array, device)
        asked_ns = time.monotonic_ns()
        client.call(Verb.FAIL, args)
        answered_ns = time.monotonic_ns()
    print(json.dumps({"asked_ns": asked_ns, "answered_ns": answered_ns}))


if __name__ == "__main__":
    main(*sys.argv[1:])
