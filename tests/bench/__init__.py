"""The figures of docs/PERFORMANCE.md: `python -m tests.bench`. Printed, never asserted.

Real daemons on loopback with default settings; what is compared is measured side by side, in
the same run, on the same file system.
"""
