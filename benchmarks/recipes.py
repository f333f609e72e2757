"""Five tutorial recipes in plain Keras, and the same networks by this project's commands: wall time and accuracy.

    python benchmarks/recipes.py DATA --recipe 2 --weights resnet50=resnet50_notop.weights.h5 --precision int8

DATA holds class folders, optionally below train and val or test. Both sides train on the same images and are
scored on the same others. Plain Keras is written as tutorials write it: the frozen backbone inside `fit`, 10
epochs of 32 images. Our side is the commands as whole processes, before plain Keras and again after it: each
time with an empty cache, so that the network is converted, and then as on any later data set, with the network
converted and nothing else kept (int8 is calibrated anew). Nothing is tuned on either side, because a recipe
says all there is; --tune fast does otherwise on ours. Without a weights file of a network both sides get Keras's
download. Machines differ, so the ratio counts. Writes benchmarks/results/recipe-<number>-<network>-<data>.json.

1  ResNet50, Flatten, Dense 256, softmax
2  ResNet50, average pooling, Dense ReLU 256 and 128, softmax, sparse labels
3  VGG16, Flatten, Dense 128, dropout 0.5, sigmoid for two classes; rotation 20, shifts 0.2, flips; then the last
   block at 1e-4 and 1e-5
4  ResNet50, softmax; then its last convolution layers at 1e-5; saved as .h5
5  a network of your choice with its top 4 layers unfrozen and recompiled, before and after (--network)
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result

from onepass.extract.backbones.catalogue import find_entry
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.frameworks import plain_keras
from onepass.extract.machine import machine
from onepass.features import SPLITS

BATCH = 32

Paths = list[tuple[Path, int]]


def main(
    data: Annotated[Path, typer.Argument(help="Class folders.")],
    recipe: Annotated[int, typer.Option(help="1 to 5.")] = 2,
    weights: Annotated[list[str] | None, typer.Option(help="network=file, may be given again.")] = None,
    network: Annotated[str, typer.Option(help="Of recipe 5: vgg16, resnet50 or inceptionv3.")] = "resnet50",
    precision: Annotated[str, typer.Option(help="Of our extraction.")] = "auto",
    tune: Annotated[str, typer.Option(help="Of our head: none, fast or thorough.")] = "none",
    epochs: Annotated[int, typer.Option(help="Of plain Keras.")] = 10,
) -> None:
    files = dict(entry.split("=", 1) for entry in weights or [])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classes = same_images(data, folder / "photos")
        name_of = {3: "vgg16", 5: network}.get(recipe, "resnet50")
        run = commands(recipe, name_of, len(classes), files.get(name_of), precision, tune)
        before = first_and_later(run, folder)
        theirs = plain(recipe, name_of, folder / "photos", files.get(name_of), epochs)
        ours = [*before, *first_and_later(run, folder)]
    result = {
        "recipe": recipe,
        "network": name_of,
        "data": data.name,
        "precision": precision,
        "tune": tune,
        "epochs": epochs,
        "machine": machine(),
        "versions": versions("onepass", "keras", "tensorflow", "openvino"),
        "onepass": ours,
        "keras": theirs,
        "times_faster": {
            name: [round(theirs["seconds"] / run["seconds"], 2) for run in ours if run["cache"] == name]
            for name in ("empty", "converted")
        },
    }
    write_result(f"recipe-{recipe}-{name_of}-{data.name}", result)
    print(json.dumps(result, indent=1))


def same_images(data: Path, target: Path) -> tuple[str, ...]:
    """Links the images as train/<class>/ and test/<class>/, as this project would split them; class names."""
    scan = scan_source(open_source(data))
    table = scan.table
    for i, path in enumerate(table.paths):
        part = "train" if SPLITS[table.splits[i]] == "train" else "test"
        place = target / part / table.class_names[table.labels[i]]
        place.mkdir(parents=True, exist_ok=True)
        source = (data / path).resolve()
        if source.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp"):  # what Keras reads
            Path(place / f"{i}{source.suffix.lower()}").symlink_to(source)
    return table.class_names


def commands(
    recipe: int, network: str, classes: int, weights: str | None, precision: str, tune: str
) -> list[list[str]]:
    """Our side of a recipe, as words of the command line."""
    given = ["--weights", weights] if weights else []
    extract = ["extract", "photos", "--backbone", network, "--precision", precision, *given, "--out", "x.h5", "--json"]
    if recipe in (1, 3):
        extract += ["--pooling", "flatten"]
    if recipe == 3:
        extract += ["--views", "4", "--augment", "flip,rotate=20,shift=0.2"]
    head = {
        1: ["--hidden", "256", "--dropout", "0"],
        2: ["--hidden", "256,128"],
        3: ["--hidden", "128", "--dropout", "0.5", *(["--output", "sigmoid"] if classes == 2 else [])],
        4: ["--hidden", "0"],
        5: ["--hidden", "256"],
    }[recipe]
    train = ["train-head", "x.h5", "--head", "mlp", "--tune", tune, *head, "--out", "x.head", "--json"]
    tuning = {
        3: ["--stages", "block5:1e-4x5,block5:1e-5x5"],
        4: ["--unfreeze", "conv5", "--lr", "1e-5", "--to", "h5"],
        5: ["--unfreeze", "4", "--lr", "1e-5"],
    }
    if recipe not in tuning:
        return [extract, train]
    return [extract, train, ["fine-tune", "x.head", "--keep", "always", *given, *tuning[recipe], "--json"]]


def first_and_later(run: list[list[str]], folder: Path) -> list[dict[str, Any]]:
    """Runs the commands with an empty cache, then with the converted network in it."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    found = [{"cache": "empty", **timed(run, folder)}]
    for calibrated in (folder / "cache").glob("*-int8-*"):
        shutil.rmtree(calibrated)
    return [*found, {"cache": "converted", **timed(run, folder)}]


def timed(run: list[list[str]], folder: Path) -> dict[str, Any]:
    """Seconds of each command, and the accuracy on the test images."""
    for made in (path for path in folder.iterdir() if path.is_file()):
        made.unlink()
    environment = {**os.environ, "ONEPASS_CACHE": str(folder / "cache")}
    seconds, found = {}, {}
    for command in run:
        began = time.perf_counter()
        program = Path(sys.executable).parent / command[0]
        done = subprocess.run(
            [program, *command[1:]], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        seconds[command[0]] = round(time.perf_counter() - began, 1)
        found[command[0]] = json.loads(done.stdout)
    accuracy = {"frozen": found["train-head"]["accuracy"]}
    if "fine-tune" in found:
        accuracy["fine-tuned"] = found["fine-tune"]["after"][0]
    return {"seconds": round(sum(seconds.values()), 1), "by_command": seconds, "accuracy": accuracy}


def plain(recipe: int, network: str, photos: Path, weights: str | None, epochs: int) -> dict[str, Any]:
    """The recipe as tutorials write it."""
    entry = find_entry(network)
    with plain_keras() as keras:
        began = time.perf_counter()
        layers, size = keras.layers, (entry.image_size, entry.image_size)
        train, test = (
            keras.utils.image_dataset_from_directory(
                photos / part, image_size=size, batch_size=BATCH, label_mode="int", shuffle=part == "train", seed=0
            )
            for part in ("train", "test")
        )
        classes = len(train.class_names)
        sigmoid = recipe == 3 and classes == 2
        base = getattr(keras.applications, entry.factory)(
            include_top=False, weights=None if weights else "imagenet", input_shape=(*size, 3)
        )
        if weights:
            base.load_weights(weights)
        base.trainable = False
        inputs = x = keras.Input((*size, 3))
        if recipe == 3:
            for layer in (
                layers.RandomFlip("horizontal"),
                layers.RandomRotation(20 / 360),
                layers.RandomTranslation(0.2, 0.2),
            ):
                x = layer(x)
        x = getattr(keras.applications, entry.module).preprocess_input(x)
        x = base(x, training=False)
        x = layers.Flatten()(x) if recipe in (1, 3) else layers.GlobalAveragePooling2D()(x)
        for units in {1: (256,), 2: (256, 128), 3: (128,), 4: (), 5: (256,)}[recipe]:
            x = layers.Dense(units, "relu")(x)
        if recipe == 3:
            x = layers.Dropout(0.5)(x)
        model = keras.Model(inputs, layers.Dense(1 if sigmoid else classes, "sigmoid" if sigmoid else "softmax")(x))
        loss = "binary_crossentropy" if sigmoid else "sparse_categorical_crossentropy"

        def fit(rate: float | None, count: int) -> float:
            optimizer = keras.optimizers.Adam(rate) if rate else "adam"
            model.compile(optimizer, loss, metrics=["accuracy"])
            history = model.fit(train, validation_data=test, epochs=count, verbose=2).history
            return float(history["val_accuracy"][-1])

        accuracy = {"frozen": fit(None, epochs)}
        top = {3: 4, 4: 32, 5: 4}.get(recipe, 0)  # block5 of VGG16, conv5 of ResNet50, the top four
        if top:
            base.trainable = True
            for layer in base.layers[:-top]:
                layer.trainable = False
            rates = {3: ((1e-4, 5), (1e-5, 5))}.get(recipe, ((1e-5, epochs),))
            for rate, count in rates:
                accuracy["fine-tuned"] = fit(rate, count)
        if recipe == 4:
            model.save(photos.parent / "model.h5")
        seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 1), "accuracy": {name: round(a, 4) for name, a in accuracy.items()}}


if __name__ == "__main__":
    np.random.seed(0)
    typer.run(main)
