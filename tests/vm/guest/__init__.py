"""Tests that run inside a guest, on its kernel; tests/vm/test_kernel_port.py starts them there."""
