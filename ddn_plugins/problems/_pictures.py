"""Reads pictures into tensors from a folder with one sub-folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes of the files that are read as pictures; upper and lower case are equivalent."""


def existing_folder(path: str) -> Path:
    """Return the folder at a path, in which `~` stands for the user's home.

    Raises:
        FileNotFoundError: The path does not exist.
        NotADirectoryError: The path is a file.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {str(folder.absolute())!r}; set path to the folder of pictures")
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file; set path to the folder of pictures")
    return folder


def class_names(folder: Path) -> list[str]:
    """Return the names of the sub-folders in alphabetical order, without hidden ones.

    Raises:
        ValueError: There are fewer than two sub-folders.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ValueError(f"{str(folder)!r} has no sub-folders; sort the pictures into one sub-folder per class")
    if len(names) == 1:
        raise ValueError(f"{str(folder)!r} has only one class, {names[0]!r}, but two are needed; add a sub-folder")
    return names


def read_classes(folder: Path, names: Sequence[str], size: int, channels: Literal[1, 3]) -> tuple[Tensor, Tensor]:
    """Return the pictures of all classes, `[N, channels, size, size]`, from 0 to 1, and their classes, `[N]`.

    Args:
        folder: Folder with one sub-folder per class.
        names: Names of the sub-folders.
        size: Height and width that each picture is resized to, whatever its proportions.
        channels: 1 for grey, 3 for red, green and blue.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: A class has no picture, or files cannot be read as pictures.
    """
    import torch  # here and below, so that the schema needs no torch

    files: list[Path] = []
    classes: list[int] = []
    for number, name in enumerate(names):
        found = picture_files(folder / name)
        files += found
        classes += [number] * len(found)
    pictures = torch.empty(len(files), channels, size, size)
    broken: list[str] = []
    for picture, file in zip(pictures, files, strict=True):
        try:
            picture.copy_(read_picture(file, size, channels))
        except ImportError:
            raise
        except Exception as error:  # Pillow raises many types of exceptions for broken files
            broken.append(f"{str(file)!r} ({error or type(error).__name__})")
    if broken:
        listed = ", ".join(broken[:3]) + (f" and {len(broken) - 3} more" if len(broken) > 3 else "")
        raise ValueError(f"cannot read {listed}; repair or remove {'them' if len(broken) > 1 else 'it'}")
    return pictures, torch.tensor(classes)


def picture_files(folder: Path) -> list[Path]:
    """Return the picture files of a class in alphabetical order, without hidden files and other suffixes.

    Raises:
        ValueError: There is no picture.
    """
    found = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    if not found:
        raise ValueError(
            f"class {folder.name!r} has no picture in {str(folder)!r}; add pictures, or remove the folder. Names "
            f"of pictures end in {', '.join(SUFFIXES)}."
        )
    return found


def read_picture(file: Path, size: int, channels: Literal[1, 3]) -> Tensor:
    """Return a picture `[channels, size, size]` with values from 0 to 1, rotated by its EXIF orientation.

    Of an animation, only the first picture is read.

    Raises:
        ImportError: Pillow is not installed.
        OSError: The file is not a picture, or is incomplete.
        ValueError: The picture has more than 8 bits per channel.
    """
    import torch

    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("image-folder needs Pillow: pip install 'ddn-core[train]'") from error
    with Image.open(file) as opened:
        if opened.mode.startswith(("I", "F")):  # Pillow would clip values above 255
            raise ValueError(f"more than 8 bits per channel, mode {opened.mode}")
        upright = ImageOps.exif_transpose(opened)
    resized = upright.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8)
    return pixels.reshape(size, size, channels).permute(2, 0, 1) / 255
