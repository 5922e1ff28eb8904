"""Programs that run in a guest, of the standard library alone; each prints a line of JSON."""
