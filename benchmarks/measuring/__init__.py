"""Measurements of time, memory and errors, each case in a separate process."""
