"""Warning filters that turn warnings into errors while sphinx-gallery runs an example."""

import warnings
from contextlib import ExitStack

_running = ExitStack()


def set_filters(gallery_conf: dict, file_name: str, when: str) -> None:
    """Set the filters before an example, and restore them after it. Sphinx-gallery calls this function."""
    _running.close()
    if when == "before":
        _running.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
