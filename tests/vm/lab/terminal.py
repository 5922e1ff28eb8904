"""This terminal, connected to a guest's shell or console until Ctrl-] is typed."""

import os
import select
import shutil
import socket
import sys
import termios
import tty
from pathlib import Path

LEAVE = b"\x1d"
"""Ctrl-], as telnet has it."""


def attach(path: Path, *, resize: bool) -> None:
    """Both ways until one side ends; resize: tell a shell how large this terminal is."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        if resize:
            size = shutil.get_terminal_size()
            order = f"\n stty rows {size.lines} cols {size.columns}; clear\n"
            connection.sendall(order.encode())
        print("Ctrl-] leaves", end="\r\n", flush=True)
        before = termios.tcgetattr(sys.stdin)
        try:
            tty.setraw(sys.stdin)
            _relay(connection)
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _relay(connection: socket.socket) -> None:
    while True:
        readable, _, _ = select.select([sys.stdin, connection], [], [])
        if connection in readable:
            data = connection.recv(1 << 16)
            if not data:
                return
            os.write(sys.stdout.fileno(), data)
        if sys.stdin in readable:
            typed = os.read(sys.stdin.fileno(), 1 << 12)
            if not typed or LEAVE in typed:
                return
            connection.sendall(typed)
