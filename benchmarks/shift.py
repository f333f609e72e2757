"""Shifts that are known, and none: what `onepass shift` says of real photos.

    python benchmarks/shift.py DATA

DATA holds hymenoptera (train, val), cats_dogs (train, validation) and trashnet. A head is trained on the train part of
the first two. Expected: no shift between the parts of one data set; a shift for darker, blurred and other photos, with
p 1/1000; recentring kept only where it wins back accuracy on photos that did not decide.
"""

import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import versions, write_result
from PIL import Image, ImageEnhance, ImageFilter

from onepass import FeatureFile, extract_features, shift, train_head
from onepass.heads.shift.two_sample import two_sample_test

BACKBONE = "efficientnet_lite0"


def changed(source: Path, target: Path, change: Callable[[Image.Image], Image.Image]) -> Path:
    """A copy of class folders with every photo changed."""
    for path in sorted(source.glob("*/*.jpg")):
        (target / path.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            change(image.convert("RGB")).save(target / path.parent.name / path.name, quality=95)
    return target


def sample(source: Path, target: Path, count: int) -> Path:
    """Some photos, drawn with a seed, in their class folders."""
    for path in random.Random(0).sample(sorted(source.glob("*/*.jpg")), count):
        (target / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path.parent.name / path.name)
    return target


def figures(features: Path, head: Path, new: Path) -> dict:
    found = shift(features, new, head=head).record()
    found["most_different"] = found.pop("images")[:3]
    found["skipped"] = len(found["skipped"])
    kept = ("n", "training", "copies", "auc", "p", "found", "detectable", "accuracy", "recentring", "skipped")
    return {name: found[name] for name in kept}


def random_halves(features: Path, new: int, times: int) -> dict:
    """How often photos of one data set, dealt out at random, are called shifted; by rights in 5 of 100 cases."""
    with FeatureFile(features) as file:
        there = np.flatnonzero(file.committed)
        x, groups = file.read(there)[0], file.group_ids()[there]
    tests = []
    for seed in range(times):
        side = np.random.default_rng(seed).permutation(len(x)) < new
        tests.append(two_sample_test(x, side, groups, permutations=199, seed=seed).p)
    return {"times": times, "new": new, "called_shifted": int(np.sum(np.array(tests) <= 0.05))}


def main(data: Path) -> None:
    results = {}
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        heads = {}
        for name in ("hymenoptera", "cats_dogs"):
            features = extract_features(data / name, BACKBONE, precision="float32", out=work / f"{name}.h5")
            heads[name] = features, train_head(features, out=work / f"{name}.head").head.path
        ants, cats = data / "hymenoptera" / "val", data / "cats_dogs" / "validation"
        cases = {
            "hymenoptera: val beside train": ("hymenoptera", ants),
            "hymenoptera: 300 photos of trashnet": ("hymenoptera", sample(data / "trashnet", work / "trashnet", 300)),
            "cats_dogs: validation beside train": ("cats_dogs", cats),
            "cats_dogs: validation, brightness 0.3": (
                "cats_dogs",
                changed(cats, work / "dark", lambda image: ImageEnhance.Brightness(image).enhance(0.3)),
            ),
            "cats_dogs: validation, contrast 0.1 and brightness 1.5": (
                "cats_dogs",
                changed(
                    cats,
                    work / "pale",
                    lambda image: ImageEnhance.Brightness(ImageEnhance.Contrast(image).enhance(0.1)).enhance(1.5),
                ),
            ),
            "cats_dogs: validation, blurred by 4 pixels": (
                "cats_dogs",
                changed(cats, work / "blurred", lambda image: image.filter(ImageFilter.GaussianBlur(4))),
            ),
        }
        for case, (name, new) in cases.items():
            results[case] = figures(*heads[name], new)
            print(case, results[case], flush=True)
        fold_seeds = [shift(heads["cats_dogs"][0], cats, seed=seed).p for seed in range(5)]
        dealt = {
            "hymenoptera": random_halves(heads["hymenoptera"][0], 153, 100),
            "cats_dogs": random_halves(heads["cats_dogs"][0], 200, 100),
        }
    found = {"cases": results, "cats_dogs_validation_p_by_seed": fold_seeds, "dealt_at_random": dealt}
    print(fold_seeds, dealt)
    write_result("shift", {"backbone": BACKBONE, **versions("numpy", "scipy", "openvino"), **found})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
