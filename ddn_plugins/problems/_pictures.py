"""Pictures on a disk: a folder with a sub-folder for each class, read into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that are taken for pictures; capitals count as small letters."""


def existing_folder(path: str) -> Path:
    """Return the folder of a path, in which `~` is the user's home.

    Raises:
        FileNotFoundError: There is nothing.
        NotADirectoryError: There is a file.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {str(folder.absolute())!r}; let path name the folder of pictures")
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file; let path name the folder of pictures")
    return folder


def class_names(folder: Path) -> list[str]:
    """Return the names of the sub-folders, in alphabetical order; hidden ones are left out.

    Raises:
        ValueError: There are fewer than two.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ValueError(f"{str(folder)!r} has no sub-folders; sort the pictures into one for each class")
    if len(names) == 1:
        raise ValueError(f"{str(folder)!r} has one class, {names[0]!r}, and two are needed; add a sub-folder")
    return names


def read_classes(folder: Path, names: Sequence[str], size: int, channels: Literal[1, 3]) -> tuple[Tensor, Tensor]:
    """Return the pictures of all classes `[N, channels, size, size]`, from 0 to 1, and their classes `[N]`.

    Args:
        folder: Folder with a sub-folder for each class.
        names: Names of the sub-folders.
        size: Height and width that each picture is brought to, whatever its own proportions.
        channels: 1 for grey, 3 for red, green and blue.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: A class has no picture, or files cannot be read as pictures.
    """
    import torch  # here and below, so that the schema is had without

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
        except Exception as error:  # Pillow raises many kinds for a broken file
            broken.append(f"{str(file)!r} ({error or type(error).__name__})")
    if broken:
        shown = ", ".join(broken[:3]) + (f" and {len(broken) - 3} more" if len(broken) > 3 else "")
        raise ValueError(f"cannot read {shown}; mend or remove {'them' if len(broken) > 1 else 'it'}")
    return pictures, torch.tensor(classes)


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures of a class, in alphabetical order; hidden files and those with other endings are left out.

    Raises:
        ValueError: There is none.
    """
    found = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    if not found:
        raise ValueError(
            f"class {folder.name!r} has no picture in {str(folder)!r}; add some, or remove the folder. Pictures end "
            f"with {', '.join(SUFFIXES)}"
        )
    return found


def read_picture(file: Path, size: int, channels: Literal[1, 3]) -> Tensor:
    """Return a picture `[channels, size, size]` from 0 to 1, turned as the camera noted; of a film the first picture.

    Raises:
        ImportError: Pillow is not installed.
        OSError: The file is no picture, or is cut off.
        ValueError: The picture has more than 8 bits a channel.
    """
    import torch

    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("image-folder needs Pillow: pip install 'ddn-core[train]'") from error
    with Image.open(file) as opened:
        if opened.mode.startswith(("I", "F")):  # Pillow would cut what is above 255 off
            raise ValueError(f"more than 8 bits a channel, mode {opened.mode}")
        upright = ImageOps.exif_transpose(opened)
    resized = upright.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8)
    return pixels.reshape(size, size, channels).permute(2, 0, 1) / 255
