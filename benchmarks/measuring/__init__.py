"""Measurements of time, memory and errors; each case runs in its own process."""
