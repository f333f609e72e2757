import json
from pathlib import Path

import numpy as np
import pytest

from onepass.extract import Backbone, plan
from onepass.extract.one_pass.run import run_extraction
from onepass.features.errors import DataError
from support import MakeFolder, picture, run_program


def test_a_plan_counts_what_is_new_and_writes_nothing(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 30, "dogs": 30})
    estimate = plan(data, tiny_backbone, out=tmp_path / "f.h5", views=3, workers=1)
    assert (estimate.images, estimate.to_compute, estimate.views, estimate.workers) == (60, 60, 3, 1)
    assert not (tmp_path / "f.h5").exists()

    done = run_extraction(data, tiny_backbone, out=tmp_path / "f.h5", views=3)
    make_folder({"owls": 5}, seed=4)
    again = plan(data, tiny_backbone, out=tmp_path / "f.h5")

    assert (again.images, again.to_compute, again.views) == (65, 5, 3)
    assert again.seconds == pytest.approx(15 / again.rate)
    more = plan(data, tiny_backbone, out=tmp_path / "f.h5", views=4)
    assert more.seconds == pytest.approx((60 * 1 + 5 * 4) / more.rate)
    assert estimate.disk == pytest.approx(done.path.stat().st_size, abs=12_000)  # HDF5's own structures


def test_the_limit_is_the_slower_of_the_two(make_folder: MakeFolder, tiny_backbone: Backbone):
    estimate = plan(make_folder({"cats": 30, "dogs": 30}), tiny_backbone)
    assert estimate.limit == ("decoding" if estimate.decode_rate < estimate.compute_rate else "compute")
    assert "limit   " + estimate.limit in str(estimate)


def test_images_that_cannot_be_read_give_no_plan(tiny_backbone: Backbone, tmp_path: Path, rng: np.random.Generator):
    for path in ("cats/1.jpg", "dogs/1.jpg"):
        (tmp_path / path).parent.mkdir()
        picture(rng).save(tmp_path / path)
        (tmp_path / path).write_bytes((tmp_path / path).read_bytes()[:-100])
    with pytest.raises(DataError, match=r"^none of the 2 images tried could be read; look at .*cats/1.jpg, for one\.$"):
        plan(tmp_path, tiny_backbone)


def test_the_command_prints_a_plan(make_folder: MakeFolder, tiny_file: Path, tmp_path: Path):
    make_folder({"cats": 3, "dogs": 3})
    command = ("extract", "photos", "--backbone", str(tiny_file), "--plan")
    assert json.loads(run_program(*command, "--json", cwd=tmp_path).stdout)["to_compute"] == 6
    assert run_program(*command, cwd=tmp_path).stdout.startswith("photos.tiny.h5: 6 images, 6 to compute\ntime    ")
    assert not (tmp_path / "photos.tiny.h5").exists()


def test_the_plan_of_a_rehash_counts_what_the_rehash_tries_again(
    make_folder: MakeFolder, tiny_file: Path, tmp_path: Path
):
    (make_folder({"cats": 3, "dogs": 3}) / "cats" / "broken.jpg").write_bytes(b"no image")
    command = ("extract", "photos", "--backbone", str(tiny_file))
    assert run_program(*command, cwd=tmp_path).returncode == 0
    for options, count in (((), 0), (("--rehash",), 1), (("--accept-drift",), 0)):
        done = run_program(*command, "--plan", *options, "--json", cwd=tmp_path)
        assert json.loads(done.stdout)["to_compute"] == count
