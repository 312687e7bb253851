"""The page of the documentation with the results of all parts."""

from __future__ import annotations

from pathlib import Path

from benchmarks.reporting.markdown import fragment, markdown_table, target_table
from benchmarks.reporting.part import Part, Result, load, write_pictures

_HEAD = """---
orphan: true
---

# Benchmarks

`make bench` takes all measurements and writes this page. Each case runs in a separate process. There, the compared
sides take turns after a warm-up, and the tables show medians. ViViT is the unmodified package `vivit-for-pytorch`
1.0.0. It needs `Tensor.symeig`, which PyTorch removed, so a function that calls `torch.linalg.eigh` replaces it. A
gradient step consists of forward pass, backward pass and update. The networks have the shapes of DeepOBS, without
dropout, and the inputs are random. The damping is 1 in every direction.
"""
_NOT_RUN = "This part was not run: there was no GPU at hand."


def write_page(parts: list[Part], results: Path, documentation: Path) -> list[Result]:
    """Write `benchmarks.md` and its figures from the stored results, and return these results.

    Args:
        parts: Parts, in the order of the page.
        results: Folder with the stored results.
        documentation: Folder of the documentation.
    """
    stored = {part.name: result for part in parts if (result := load(part, results)) is not None}
    found = list(stored.values())
    sections = [_HEAD]
    if targets := [target for result in found for target in result.summary.targets]:
        sections.append("## Targets\n\n" + markdown_table(target_table(targets)) + "\n")
    for part in parts:
        if part.name not in stored:
            sections += [f"## {part.title}\n\n{part.text}\n\n{_NOT_RUN}\n"] if part.needs_gpu else []
            continue
        result = stored[part.name]
        pictures = write_pictures(result, documentation / "_static" / "benchmarks")
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
