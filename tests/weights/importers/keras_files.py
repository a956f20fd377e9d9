"""Make files of Keras, and its answers, in a process of their own: python keras_files.py FOLDER [full]."""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

WIDTHS, FC_WIDTH, NUM_CLASSES = (2, 3, 4, 5, 5), 8, 10
CONVS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def small(name, top):
    """The layers of Keras Applications with fewer channels."""
    image = x = keras.Input((224, 224, 3) if top else (64, 96, 3))
    for block, (width, count) in enumerate(zip(WIDTHS, CONVS[name], strict=True), start=1):
        for number in range(1, count + 1):
            x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=f"block{block}_conv{number}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    if top:
        x = keras.layers.Flatten(name="flatten")(x)
        x = keras.layers.Dense(FC_WIDTH, activation="relu", name="fc1")(x)
        x = keras.layers.Dense(FC_WIDTH, activation="relu", name="fc2")(x)
        x = keras.layers.Dense(NUM_CLASSES, name="predictions")(x)
    return keras.Model(image, x, name=name)


def full(name, top):
    make = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[name]
    shape = None if top else (64, 96, 3)
    return make(weights=None, include_top=top, input_shape=shape, classifier_activation=None)


def with_head_of_ones_own(model):
    """As many people fine-tune: the network inside another model, with global average pooling and Dense."""
    layers = keras.layers
    return keras.Sequential([model, layers.GlobalAveragePooling2D(), layers.Dropout(0.5), layers.Dense(NUM_CLASSES)])


def main():
    folder, make = Path(sys.argv[1]), full if sys.argv[2:] == ["full"] else small
    rng = np.random.default_rng(0)
    for name in CONVS:
        for top in ("top", "notop", "gap"):
            model = make(name, top == "top")
            if top == "gap":
                model = with_head_of_ones_own(model)
            weights = []
            for array in model.get_weights():
                bound = (6 / array[..., 0].size) ** 0.5 if array.ndim > 1 else 0.2
                weights.append(rng.uniform(-bound, bound, array.shape).astype("float32"))
            weights[0] /= 100  # for inputs of 0..255
            model.set_weights(weights)
            stem = folder / f"{name}-{top}"
            model.save(f"{stem}.h5")
            model.save(f"{stem}.keras")
            model.save_weights(f"{stem}.weights.h5")
            pixels = rng.integers(0, 256, (2, *model.input_shape[1:]), dtype=np.uint8)
            prepared = keras.applications.vgg16.preprocess_input(pixels.astype("float32"))
            np.savez(f"{stem}.npz", pixels=pixels, answers=model.predict(prepared, verbose=0))


main()
