"""The main job on real images: scikit-learn's handwritten digits, from PNG files to tested heads.

Run it with `make demo`. It writes everything into one folder, runs the same commands that you would
type, and prints a table of what they found. Expect test accuracies of about 0.93 to 0.96, and 0.98
after fine-tuning.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def main(folder: Path) -> None:
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"1. {write_digits(folder / 'digits')} handwritten digits as PNG files in {folder / 'digits'}")
    found = run(folder, "extract", "--backbone", "efficientnet_lite0", "--image-size", "64", "digits", "--json")
    rate = f"{found['images_per_second']:.0f} images/s, {found['engine']} {found['precision']}"
    print(f"   {found['computed']} computed, {found['reused']} reused, {found['skipped'] or 'none'} skipped ({rate})")
    compared = run(folder, "compare-heads", "--save-best", "--json")
    features = found["path"]
    tuned = run(folder, "fine-tune", features, "--unfreeze", "all", "--lr", "3e-4", "--epochs", "8", "--json")
    images = sorted(folder.glob("digits/test/*/*.png"))[::60]
    names = [str(image.relative_to(folder)) for image in images]
    predicted = run(folder, "onepass", "predict", compared["saved"], *names, "--top", "1", "--json")

    print(f"\n{'head':<10}{'test accuracy':<15}{'95 % interval':<18}{'log loss':<10}{'fit s':>5}")
    for head in compared["heads"]:
        low, high = head["interval"]
        span = f"{low:.3f} to {high:.3f}"
        line = f"{head['name']:<10}{head['score']:<15.3f}{span:<18}{head['log_loss']:<10.3f}{head['fit_seconds']:>5.1f}"
        print(line)
    print(compared["answer"])
    accuracy, (low, high) = tuned["after"]
    print(f"fine-tuned: {accuracy:.3f} ({low:.3f} to {high:.3f}); kept: the {tuned['kept']} model, {tuned['path']}")
    print(f"\nA few of the test images, as {compared['cheapest']} sees them:")
    for one in predicted["predictions"]:
        print(f"   {one['path']:<28} -> {one['class']}  ({one['probability']:.2f})")
    print(f"\nAll of it lies in {folder}: images in digits/, rows in {found['path']}, the head in {compared['saved']}.")
    print(f"{time.perf_counter() - started:.0f} s in all. Next: the same two commands on a folder of your own.")


def write_digits(folder: Path) -> int:
    """Writes the digits as <part>/<class>/<number>.png, a quarter of each class as test part; returns how many."""
    digits = load_digits()
    train, _ = train_test_split(np.arange(len(digits.target)), test_size=0.25, stratify=digits.target, random_state=0)
    in_train = np.isin(np.arange(len(digits.target)), train)
    shutil.rmtree(folder, ignore_errors=True)
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / ("train" if in_train[number] else "test") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * (255 / 16)).astype(np.uint8)).save(place / f"{number:04}.png")
    return len(digits.target)


def run(folder: Path, *command: str) -> Any:
    """Runs one command in the folder as a user would, shows it, and returns its JSON."""
    print("$ " + " ".join(part for part in command if part != "--json"), flush=True)
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], cwd=folder, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
