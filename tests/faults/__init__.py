"""Faults of the system: full disks, processes that are left over, locks that others hold."""
