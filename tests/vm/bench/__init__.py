"""The figures of real kernels in guests: `python -m tests.vm.bench`. Printed, never asserted.

Real daemons over the kernel's md; what is compared is measured side by side, in the same guests,
one after the other. Each family of figures has a module: `measure` yields one round after the
other, as plain numbers; `table` makes the lines of the table of them, and does no I/O.
"""
