"""Evaluations and predictions as text."""

import json
from pathlib import Path

import numpy as np
import pytest

from vggnet.metrics import ClassScores
from vggnet.report.evaluation_text import evaluation_text, predictions_text
from vggnet.report.text import to_json
from vggnet.tasks.results import EvaluationResult, Prediction


def result(**changes):
    values = {
        "top1": 0.98613,
        "top5": 1.0,
        "loss": 0.04321,
        "images": 1500,
        "per_class": {"cat": 0.975, "aeroplane": None, "dog": 1.0},
        "scores": {
            "cat": ClassScores(precision=1.0, recall=0.975, f1=0.98734, roc_auc=0.99),
            "aeroplane": ClassScores(precision=None, recall=None, f1=None, roc_auc=None),
            "dog": ClassScores(precision=0.95238, recall=1.0, f1=0.97561, roc_auc=0.995),
        },
        "macro": ClassScores(precision=0.97619, recall=0.9875, f1=0.98148, roc_auc=0.9925),
        "weighted": ClassScores(precision=0.98413, recall=0.98333, f1=0.98343, roc_auc=None),
        "confusion": ((975, 0, 25), (0, 0, 0), (0, 0, 500)),
        "calibration_error": 0.0123,
        "classes": ("cat", "aeroplane", "dog"),
        "data": "pets",
        "split": "test",
        "fingerprint": "0123456789abcdef",
        "model": "runs/mine",
        "seconds": 3.0,
        "protocol": "single",
        "scales": (256,),
        "views": 1,
        "device": "cpu",
        "torch": "2.9",
        "date": "2025-01-01T00:00:00+00:00",
        "files": (),
    }
    return EvaluationResult(**values | changes)


def test_few_classes():
    """Oracle: written by hand."""
    assert evaluation_text(result()).splitlines() == [
        "class            recall  precision       F1  ROC AUC  images  most often mistaken for",
        "cat             97.50 %   100.00 %  98.73 %   0.9900   1,000  dog (25)",
        "aeroplane             -          -        -        -       0",
        "dog            100.00 %    95.24 %  97.56 %   0.9950     500",
        "macro mean      98.75 %    97.62 %  98.15 %   0.9925",
        "weighted mean   98.33 %    98.41 %  98.34 %        -",
        "",
        "1,500 images of pets in 3.0 s (500 images/s)",
        "loss 0.0432 nats, calibration error 1.23 %",
        "test accuracy 98.61 %",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"protocol": "dense"}, "protocol dense, scale 256"),
        (
            {"protocol": "dense+multicrop", "scales": (256, 384), "views": 104},
            "protocol dense+multicrop, scale 256, 384, mean softmax over 104 views of each image",
        ),
        ({"views": 6}, "protocol single, scale 256, mean softmax over 6 views of each image"),
    ],
)
def test_the_protocol_is_named(changes, line):
    """Oracle: written by hand."""
    assert evaluation_text(result(**changes)).splitlines()[8] == line


@pytest.mark.parametrize("classes", [1, 6, 20, 21, 1000])
def test_classes_have_a_table_up_to_twenty(classes):
    """Oracle: by hand: a line for each class up to twenty; top-5 says nothing up to five classes."""
    names = tuple(f"class {index}" for index in range(classes))
    few = result(
        classes=names,
        scores=dict.fromkeys(names, ClassScores(precision=1.0, recall=1.0, f1=1.0, roc_auc=None)),
        confusion=tuple(map(tuple, np.eye(classes, dtype=int).tolist())),
    )
    lines = evaluation_text(few).splitlines()
    assert sum(line.startswith("class ") for line in lines) == (classes + 1 if classes <= 20 else 0)
    assert ("top-5 accuracy 100.00 %" in lines) is (classes > 5)
    assert lines[-1] == "test accuracy 98.61 %"


def test_figures_are_named():
    """Oracle: written by hand."""
    lines = evaluation_text(result(files=(Path("out/a.png"), Path("out/b.png")))).splitlines()
    assert lines[-3:-1] == ["drawn: out/a.png", "drawn: out/b.png"]


def test_predictions():
    """Oracle: by hand."""
    predictions = [
        Prediction(name="a.png", classes=("cat", "fish"), probabilities=(0.75, 0.25)),
        Prediction(name="b.png", error="b.png: the file is empty."),
    ]
    assert json.loads(to_json(predictions)) == [
        {"name": "a.png", "classes": ["cat", "fish"], "probabilities": [0.75, 0.25], "error": None},
        {"name": "b.png", "classes": [], "probabilities": [], "error": "b.png: the file is empty."},
    ]
    table = "a.png\n  cat    75.00 %\n  fish   25.00 %\nb.png: the file is empty."
    assert predictions_text(predictions) == table


def test_no_predictions():
    """Oracle: by hand."""
    assert (to_json([]), predictions_text([])) == ("[]", "")
