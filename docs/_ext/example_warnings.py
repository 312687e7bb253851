"""Makes warnings errors while sphinx-gallery runs an example, and only then."""

import warnings
from contextlib import ExitStack

_running = ExitStack()


def set_filters(gallery_conf: dict, file_name: str, when: str) -> None:
    """Set the filters before an example, and put them back after it; called by sphinx-gallery."""
    _running.close()
    if when == "before":
        _running.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
