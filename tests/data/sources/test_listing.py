"""Labels from a CSV file beside the images: which image each row means, or one line that names the row."""

import json

import numpy as np
import pytest
from PIL import Image

from vggnet.cli.main import main
from vggnet.data.sources.opening import open_source, source_splits
from vggnet.data.sources.source import Columns
from vggnet.errors import DataError


def images(folder, *names):
    """Each of its own color."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((32, 32, 3), 10 * number + 5, np.uint8)
        pixels[number, 0] = len(str(folder))
        Image.fromarray(pixels).save(folder / name)


def labels_of(folder, split="all", **options):
    source = open_source(folder, split, **options)
    return {source.describe(i).removeprefix(f"{folder}/"): source.classes[source.labels[i]] for i in range(len(source))}


NAMES = ("a.png", "b.png", "deep/c.png")
EXPECTED = {"a.png": "cat", "b.png": "dog", "deep/c.png": "cat"}
TABLES = {
    "as the hub has it": "file_name,label\na.png,cat\nb.png,dog\ndeep/c.png,cat\n",
    "other names and order": "class,weight,Image Path\ncat,1,./a.png\ndog,2,b.png\ncat,3,deep\\c.png\n",
    "without suffixes": "id,label\na,cat\nb,dog\nc,cat\n",
    "no header": "a.png,cat\nb.png,dog\nc.png,cat\n",
    "semicolons": "\ufefffile;label\na.png; cat\nb.png;dog \nc.png;cat\n",
    "tabs and quotes": 'file\tlabel\n"a.png"\tcat\n\nb.png\t"dog"\nc.png\tcat\n',
    "Windows": "file,label\r\na.png,cat\r\nb.png,dog\r\nc.png,cat\r\n",
    "one-hot": "image,cat,dog\na,1.0,0.0\nb,0.0,1.0\nc,1,0\n",
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("inner", ["", "images/"])
def test_every_form_of_a_table(tmp_path, kind, encoding, inner):
    """Oracle: by hand."""
    images(tmp_path, *(inner + name for name in NAMES))
    (tmp_path / "labels.csv").write_text(TABLES[kind], encoding=encoding, newline="")
    assert labels_of(tmp_path) == {inner + name: label for name, label in EXPECTED.items()}
    assert source_splits(tmp_path) == ("train", "test", "all")


def test_numbers_are_classes_in_their_order(tmp_path):
    """Oracle: by hand: 9 comes before 10."""
    images(tmp_path, "a.png", "b.png")
    (tmp_path / "any.csv").write_text("file,label\na.png,10\nb.png,9\n")
    assert open_source(tmp_path, "all").classes == ("9", "10")


@pytest.mark.parametrize("layout", ["in split folders", "named", "a column"])
def test_splits(tmp_path, layout):
    """Oracle: by hand; a test may lack classes, and images that no row names are ignored and listed."""
    images(tmp_path, "Train/a.png", "Train/b.png", "test/c.png", "test/d.png")
    train, test = "file,label\na.png,cat\nb.png,dog\n", "file,label\nc.png,dog\n"
    if layout == "in split folders":
        (tmp_path / "Train" / "metadata.csv").write_text(train)
        (tmp_path / "test" / "metadata.csv").write_text(test)
    elif layout == "named":
        (tmp_path / "train.csv").write_text(train)
        (tmp_path / "test.csv").write_text(test)
    else:
        rows = "a.png,cat,train\nb.png,dog,train\nc.png,dog,test\n"
        (tmp_path / "metadata.csv").write_text(f"file,label,split\n{rows}")
    assert source_splits(tmp_path) == ("train", "test")
    assert labels_of(tmp_path, "train") == {"Train/a.png": "cat", "Train/b.png": "dog"}
    assert labels_of(tmp_path, "test") == {"test/c.png": "dog"}
    assert str(tmp_path / "test" / "d.png") in open_source(tmp_path, "test").ignored()


def test_an_undivided_table_is_divided_by_content(tmp_path):
    """Oracle: both parts make the whole, and the order of the rows does not matter."""
    names = [f"{number}.png" for number in range(20)]
    images(tmp_path, *names)
    rows = [f"{name},{'cat' if number % 2 else 'dog'}" for number, name in enumerate(names)]
    parts = []
    for order in (rows, rows[::-1]):
        (tmp_path / "labels.csv").write_text("\n".join(["file,label", *order]))
        train, test, whole = (labels_of(tmp_path, split) for split in ("train", "test", "all"))
        assert train | test == whole
        assert set(train).isdisjoint(test)
        assert len(test) >= 2
        assert open_source(tmp_path, "train").ignored() == []
        parts.append(set(test))
    assert parts[0] == parts[1]


WRONG = {
    "missing label": ("file,label\na.png,cat\nb.png,\n", "line 3 has no label"),
    "not a number": ("file,label\na.png,1\nb.png,nan\n", "line 3 has no label"),
    "no such image": ("file,label\na.png,cat\nx.png,dog\n", r"line 3 names 'x\.png', but no such image below"),
    "outside": ("file,label\na.png,cat\n../../etc/passwd.png,dog\n", "line 3 names .* but no such image below"),
    "twice": ("file,label\na.png,cat\n./a.png,dog\n", "line 3 and line 2 name the same image"),
    "ambiguous": ("file,label\nb.png,cat\na,dog\n", "line 3 names 'a', but 2 images have this name"),
    "ragged": ("file,label\na.png,cat\nb.png\n", "line 3 has 1 values; expected 2"),
    "one class": ("file,label\na.png,cat\nb.png,cat\n", "has 1 class"),
    "no labels": ("file,comment\na.png,good\nb.png,bad\n", "no label column among file, comment; .*--label-column"),
    "two hot": ("file,cat,dog\na.png,1,1\nb.png,1,0\n", "no label column"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_tables_that_are_no_labels(tmp_path, kind):
    """Oracle: the first line that is wrong, counted by hand."""
    table, message = WRONG[kind]
    images(tmp_path, "a.png", "b.png", *(["deep/a.jpg"] if kind == "ambiguous" else []))
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(DataError, match=message) as caught:
        open_source(tmp_path, "all")
    assert "\n" not in str(caught.value)


def test_class_folders_come_first_unless_columns_are_given(tmp_path):
    """Oracle: the names of the folders, and those of the table."""
    images(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "labels.csv").write_text("file,breed\na.png,siamese\nb.png,beagle\n")
    assert labels_of(tmp_path) == {"cat/a.png": "cat", "dog/b.png": "dog"}
    found = labels_of(tmp_path, columns=Columns(label="breed"))
    assert found == {"cat/a.png": "siamese", "dog/b.png": "beagle"}
    with pytest.raises(DataError, match=r"no column 'kind'; the columns are file, breed"):
        labels_of(tmp_path, columns=Columns(label="kind"))
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(DataError, match="is no table"):
        labels_of(tmp_path, columns=Columns(label="kind"))


def test_train_and_test(tmp_path, monkeypatch, capsys):
    """Oracle: the labels of the table."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = [f"images/{number}.png" for number in range(24)]
    images(tmp_path / "set", *names)
    rows = [f"{number},{'cat' if number % 2 else 'dog'}" for number in range(24)]
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["image_id,species", *rows]))
    tiny = ["--model", "vgg11_bn", "--width", "0.05", "--epochs", "1", "--batch-size", "8", "--head", "gap"]
    column = ["--label-column", "species"]
    for arguments in (
        ["data", "set", *column],
        ["train", "--data", "set", *column, "--preset", "quick", *tiny, "--workers", "0", "--out", "run"],
        ["train", "--resume", "run"],
        ["test", "run", "--json"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        assert not ended.value.code, err
    result = json.loads(out)
    assert result["classes"] == ["cat", "dog"]
    assert result["images"] == len(open_source("set", "test", columns=Columns(label="species")))
