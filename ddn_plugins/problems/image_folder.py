"""Classification of the user's own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from ddn_core.api import Problem, ProblemParts, Unit
from ddn_plugins._bounds import Width
from ddn_plugins.problems._batches import split, test_batches, training_batches
from ddn_plugins.problems._metrics import accuracy
from ddn_plugins.problems._networks import convolutional
from ddn_plugins.problems._pictures import class_names, existing_folder, read_classes

if TYPE_CHECKING:
    from torch import Tensor


class ImageFolder(Problem, kind="image-folder"):
    """Classify your own pictures, in one sub-folder per class, with a small convolutional network.

    If the folder has sub-folders `train` and `test`, the sub-folders of the classes are inside these; otherwise a
    random part of the pictures is used for the test. Pillow reads the pictures, which are stretched to `image_size`.
    All of them are kept in memory as float32, `4 · channels · image_size²` bytes each. The network has, for each of the
    `widths`, a 3 × 3 convolution, a ReLU and a pooling that halves the picture, and a last linear layer.
    """

    path: str = Field(
        min_length=1,
        examples=["pictures"],
        description="Folder of the pictures; a relative path starts in the working directory of the command.",
    )
    image_size: PositiveInt = Field(
        32, le=10**4, description="Height and width in pixels that each picture is resized to."
    )
    channels: Annotated[Literal[1, 3], Unit("1")] = Field(
        3, description="Number of channels: 1 for grey, 3 for colour."
    )
    widths: list[Width] = Field([8, 16], min_length=1, description="Output channels of the convolutions.")
    batch_size: PositiveInt = Field(32, description="Number of pictures in a training batch.")
    test_fraction: Annotated[float, Unit("1")] = Field(
        0.2, gt=0, lt=1, description="Fraction of the pictures used for the test, unless there is a folder `test`."
    )

    @model_validator(mode="after")
    def _something_is_left_after_pooling(self) -> Self:
        least = 2 ** len(self.widths)
        if self.image_size < least:
            raise ValueError(
                f"image_size cannot be {self.image_size} with {len(self.widths)} widths, since each halves the "
                f"picture; set it to {least} or more, or use fewer widths"
            )
        return self

    def load(self) -> ProblemParts:
        """Return network, loss and data.

        Raises:
            OSError: The folder does not exist.
            ValueError: There are too few classes or pictures, or a file is not a picture.
        """
        from torch.nn import CrossEntropyLoss  # here, so that the schema needs no torch

        folder = existing_folder(self.path)
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            names = _same_classes(folder)
            train, test = (self._read(folder / part, names) for part in ("train", "test"))
        else:
            names = class_names(folder)
            train, test = split(self._read(folder, names), self.test_fraction)
        model = convolutional(self.channels, self.widths, self.image_size, len(names))
        return ProblemParts(
            model=model,
            loss_function=CrossEntropyLoss(),
            train_batches=training_batches(train, self.batch_size, f"training pictures in {str(folder)!r}"),
            test_batches=test_batches(test),
            metrics={"accuracy": accuracy},
        )

    def _read(self, folder: Path, names: list[str]) -> tuple[Tensor, Tensor]:
        return read_classes(folder, names, self.image_size, self.channels)


def _same_classes(folder: Path) -> list[str]:
    """Return the classes of `train` and `test`, or raise a `ValueError` if they differ."""
    train, test = class_names(folder / "train"), class_names(folder / "test")
    if odd := sorted(set(train) ^ set(test)):
        part = "test" if odd[0] in train else "train"
        raise ValueError(f"{str(folder / part)!r} lacks class {odd[0]!r}; train and test need the same sub-folders")
    return train
