"""How times, memory and errors are measured, each case in a process of its own."""
