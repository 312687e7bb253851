"""The page of the documentation that joins all parts."""

from __future__ import annotations

from pathlib import Path

from benchmarks.reporting.markdown import fragment, markdown_table, target_table
from benchmarks.reporting.part import Part, Result, load, write_pictures

_HEAD = """---
orphan: true
---

# Benchmarks

Measured by `make bench`, which writes this page. Each case runs in a process of its own; what is compared takes turns
there, after a warm-up, and the median counts. ViViT is `vivit-for-pytorch` 1.0.0 from the package index, unmodified but
for `Tensor.symeig`, which PyTorch removed, mapped to `torch.linalg.eigh`. A gradient step is forward pass, backward
pass and update. Networks have the shapes of DeepOBS, without dropout; inputs are random. The damping is 1 in every
direction.
"""


def write_page(parts: list[Part], results: Path, documentation: Path) -> list[Result]:
    """Write `benchmarks.md` and its pictures from the results that are there, and return them.

    Args:
        parts: Parts, in the order of the page.
        results: Folder with results.
        documentation: Folder of the documentation.
    """
    found = [result for part in parts if (result := load(part, results)) is not None]
    sections = [_HEAD]
    if targets := [target for result in found for target in result.summary.targets]:
        sections.append("## Targets\n\n" + markdown_table(target_table(targets)) + "\n")
    for result in found:
        pictures = write_pictures(result, documentation / "_static" / "benchmarks")
        part = result.part
        sections.append(
            fragment(
                part.title,
                part.text,
                result.summary,
                pictures,
                result.environment,
                result.seconds,
                "_static/benchmarks/",
            )
        )
    documentation.mkdir(parents=True, exist_ok=True)
    (documentation / "benchmarks.md").write_text("\n".join(sections))
    return found
