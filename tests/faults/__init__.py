"""Faults that are injected: what others wrote, what is damaged, what the system refuses."""
