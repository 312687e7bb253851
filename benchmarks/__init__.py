"""Speed, memory, accuracy and growth of ddn's steps, measured against its peers: `python -m benchmarks`, `make bench`.

- `architectures`, `problems`, `cases`: what is measured.
- `sides`: who is measured.
- `measuring`: how a number is found, in a process of its own.
- `parts`: one question each, with its targets.
- `reporting`: tables, pictures, JSON, Markdown, and a page of the documentation.
"""
