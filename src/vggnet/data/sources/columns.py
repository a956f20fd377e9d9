"""Which columns of a table hold the images and the labels."""

import json
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]

from vggnet.data.sources.source import BY_NAME, Annotation, Columns
from vggnet.errors import DataError

_LABELS = ("label", "fine_label", "labels")
_MASKS = ("mask", "annotation", "segmentation")
_OBJECTS = "objects"
_IMAGES = ("image", "img", "picture", "photo", "jpg", "png")


def find_columns(schema: Any, where: str, given: Columns = BY_NAME) -> tuple[str, str]:
    """The columns of encoded images and of labels.

    Images are a struct with a field `bytes`, as Hugging Face has them, or plain bytes; of several such columns, the one
    that is called image. Labels are called label, fine_label or labels, or are a ClassLabel of Hugging Face.

    Args:
        schema: a pyarrow.Schema.
        where: the data, for messages.
        given: names that were asked for.

    Returns:
        The names of the column of images and of that of labels.

    Raises:
        DataError: there are none, or the given ones cannot be.

    Example:
        >>> find_columns(pa.schema({"photo": pa.binary(), "label": pa.int64()}), "a table")
        ('photo', 'label')
    """
    _check_has(schema, where, given.image, "--image-column")
    _check_has(schema, where, given.label, "--label-column")
    if given.image is not None and given.image == given.label:
        raise DataError(f"{where}: {given.image!r} cannot be both the column of images and that of labels.")
    return image_column(schema, where, given), _label_column(schema, where, given)


class AnnotationColumn(NamedTuple):
    """A column that says more of an image than its class."""

    name: str
    kind: Annotation


def annotation_column(schema: Any, given: Columns = BY_NAME) -> AnnotationColumn | None:
    """The column of masks or of objects, None for tables that have labels alone.

    Masks are encoded images in a column called mask, annotation or segmentation, or structs of them in that of labels.
    Objects are a struct with the fields bbox and category in a column called objects. Labels come first, if there are
    any.

    Args:
        schema: a pyarrow.Schema.
        given: names that were asked for.

    Example:
        >>> annotation_column(pa.schema({"image": pa.binary(), "mask": pa.binary()}))
        AnnotationColumn(name='mask', kind='mask')
    """
    fields = {field.name: field.type for field in schema if field.name != given.image}

    def is_mask(name: str) -> bool:
        kind = fields.get(name, pa.null())
        return _has_bytes(kind) or (name in _MASKS and _is_bytes(kind))  # names of classes may be bytes as well

    def has_objects(name: str) -> bool:
        kind = fields.get(name, pa.null())
        return bool(pa.types.is_struct(kind)) and all(kind.get_field_index(part) >= 0 for part in ("bbox", "category"))

    asked = (given.label,) if given.label is not None else (*_LABELS, *_MASKS, _OBJECTS)
    if given.label is None and any(name in fields and not is_mask(name) for name in _LABELS):
        return None
    for name in asked:
        if is_mask(name):
            return AnnotationColumn(name, "mask")
        if has_objects(name):
            return AnnotationColumn(name, "objects")
    return None


def class_names(schema: Any, column: str | None) -> list[str] | None:
    """The names of the classes, as Hugging Face's metadata have them, in the order of their numbers."""
    feature = _features(schema).get(column or "", {})
    feature = feature.get("feature") or feature  # of a list
    feature = feature.get("category") or feature  # of objects
    names = (feature.get("feature") or feature).get("names")
    return None if names is None else list(map(str, names))


def image_column(schema: Any, where: str, given: Columns = BY_NAME) -> str:
    """The column of encoded images, as `find_columns` finds it.  Raises: DataError."""
    _check_has(schema, where, given.image, "--image-column")
    fields = {field.name: field.type for field in schema if field.name != given.label}
    if given.image is not None:
        if not (_has_bytes(fields[given.image]) or _is_bytes(fields[given.image])):
            raise DataError(
                f"{where}: column {given.image!r} holds {fields[given.image]}; expected encoded images (bytes)."
            )
        return given.image
    features = _features(schema)
    structs = [name for name, kind in fields.items() if _has_bytes(kind)]
    plain = [name for name, kind in fields.items() if _is_bytes(kind) and name not in _LABELS]
    declared = [name for name in plain if features.get(name, {}).get("_type") == "Image"]
    named = [name for name in _IMAGES if name in plain]
    if structs or declared or named or len(plain) == 1:
        return (structs or declared or named or plain)[0]
    which = f" Choose one of {', '.join(plain)} with --image-column." if plain else ""
    raise DataError(
        f"{where}: no image column among {', '.join(schema.names)}; expected one with encoded images (bytes).{which}"
    )


def _check_has(schema: Any, where: str, name: str | None, option: str) -> None:
    if name is not None and name not in schema.names:
        raise DataError(f"{where}: no column {name!r} ({option}); its columns are {', '.join(schema.names)}.")


def _label_column(schema: Any, where: str, given: Columns) -> str:
    if given.label is not None:
        return given.label
    features = _features(schema)
    named = [name for name in _LABELS if name in schema.names]
    named += [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    if not named:
        raise DataError(
            f"{where}: no label column among {', '.join(schema.names)}; expected one named label. Name another with "
            "--label-column."
        )
    return named[0]


def _has_bytes(kind: Any) -> bool:
    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _is_bytes(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _features(schema: Any) -> dict[str, Any]:
    """What Hugging Face's metadata say of each column: {"label": {"_type": "ClassLabel", "names": [...]}, ...}."""
    with suppress(KeyError, TypeError, ValueError):
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    return {}
