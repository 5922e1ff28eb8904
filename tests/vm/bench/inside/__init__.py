"""Programs that run in a guest, of the standard library alone unless they say otherwise.

Each prints lines of JSON; times are of CLOCK_MONOTONIC there, in nanoseconds.
"""
