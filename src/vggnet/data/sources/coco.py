"""Objects of many images in one JSON file, as COCO has them."""

import json
from pathlib import Path
from typing import Any

from vggnet.data.objects import Annotated
from vggnet.errors import DataError, one_line

COCO_NAME = "_annotations.coco.json"  # the file beside the images of a split
EXPECTED = "expected lists images (id, file_name), categories (id, name) and annotations (image_id, category_id, bbox)"


def read_coco(file: Path, images: Path) -> tuple[dict[str, list[Annotated]], list[str]]:
    """What a file says of each image, and the names of the classes in the order of their ids.

    An image may have no object. Boxes are (x, y, width, height) from the corner of the image; those that reach past it
    by less than a pixel, as rounding leaves them, are cut.

    Args:
        file: the JSON file.
        images: the folder that file names are relative to.

    Returns:
        The objects of each image by its path, in the order of the file; the classes that have objects.

    Raises:
        DataError: the file cannot be read, or is not of COCO.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> content = {"images": [{"id": 7, "file_name": "a.jpg", "width": 9, "height": 9}],
        ...     "categories": [{"id": 3, "name": "cat"}],
        ...     "annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}]}
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, COCO_NAME).write_text(json.dumps(content))
        ...     read_coco(Path(folder, COCO_NAME), Path("photos"))
        ({'photos/a.jpg': [Annotated(label='cat', box=(1.0, 2.0, 4.0, 6.0), is_crowd=False)]}, ['cat'])
    """
    try:
        content = json.loads(file.read_bytes())
        names = {one["id"]: str(one["name"]) for one in content["categories"]}
        places = {one["id"]: _inside(images, one["file_name"]) for one in content["images"]}
        sizes = {one["id"]: (one.get("width"), one.get("height")) for one in content["images"]}
        found: dict[str, list[Annotated]] = {place: [] for place in places.values()}
        for one in content["annotations"]:
            image, label = one["image_id"], names[one["category_id"]]
            found[places[image]].append(Annotated(label, _edges(one["bbox"], sizes[image]), bool(one.get("iscrowd"))))
    except (OSError, UnicodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else one_line(error)
        raise DataError(f"{file}: cannot be read ({what}); {EXPECTED}.") from error
    used = {one.label for objects in found.values() for one in objects}
    return found, list(dict.fromkeys(names[key] for key in sorted(names) if names[key] in used))


def _inside(images: Path, name: Any) -> str:
    """The path of an image.  Raises: ValueError if it lies outside its folder."""
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the file_name {name!r} is not below the folder of the images")
    return str(images / name)


def _edges(box: Any, size: tuple[Any, Any]) -> tuple[float, float, float, float]:
    """Raises: ValueError, TypeError."""
    left, top, width, height = map(float, box)
    edges = [left, top, left + width, top + height]
    for place, limit in ((2, size[0]), (3, size[1])):
        if limit is not None and limit < edges[place] < limit + 1:
            edges[place] = float(limit)
    return edges[0], edges[1], edges[2], edges[3]
