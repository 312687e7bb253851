"""Faults that are made on purpose: full disks, damaged files, processes and plugins that misbehave."""
