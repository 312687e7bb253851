"""Benchmarks of ddn's steps against its peers, run by `python -m benchmarks` or `make bench`.

- `architectures`, `problems`, `cases`: the networks, batches and kinds of step that are measured.
- `sides`: the implementations that are compared.
- `measuring`: functions that measure time, memory and errors, each in a separate process.
- `parts`: the sections of the benchmark; each answers one question and has its targets.
- `reporting`: tables, figures, JSON, Markdown, and a page of the documentation.
"""
