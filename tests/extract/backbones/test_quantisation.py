import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from onepass.extract import load_backbone
from onepass.extract.backbones.backbone import Backbone
from onepass.extract.backbones.engines import choose_engine
from onepass.extract.backbones.load import load_backbone_for
from onepass.extract.backbones.options import BackboneOrigin
from onepass.extract.backbones.quantisation import CALIBRATION_IMAGES, COMPARED_IMAGES, calibrated
from onepass.extract.frameworks import import_keras
from onepass.extract.pixels.decode import read_image
from onepass.features.errors import BackboneError, DataError, OptionError
from support import NO_NETWORK, picture, run_process

Files = list[tuple[bytes, Path]]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """24 images with their content hashes."""
    folder, generator = tmp_path_factory.mktemp("calibration"), np.random.default_rng(0)
    for number in range(24):
        picture(generator, hue=number).save(folder / f"{number}.png")
    return with_hashes(folder)


def with_hashes(folder: Path) -> Files:
    return [(hashlib.sha256(path.read_bytes()).digest(), path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="session")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five convolutions, so that three are quantised: 32 px in, 8 wide."""
    keras = import_keras()
    keras.utils.set_random_seed(2)
    convolutions = [keras.layers.Conv2D(8, 3, padding="same", activation="relu") for _ in range(5)]
    path = tmp_path_factory.mktemp("small") / "small.keras"
    keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), *convolutions]).save(path)
    return path


@pytest.fixture(scope="session")
def int8_small(small_file: Path) -> Backbone:
    return load_backbone(str(small_file), precision="int8")


@pytest.fixture(scope="session")
def quantised(int8_small: Backbone, files: Files) -> Backbone:
    return calibrated(int8_small, files)


def pixels(files: Files) -> np.ndarray:
    return np.stack([read_image(path, image_size=32, resize="squash") for _, path in files])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_int8_rows_point_where_float32_rows_do_and_the_record_says_how_exactly(
    quantised, small_file: Path, files: Files
):
    exact = load_backbone(str(small_file), precision="float32")
    expected = cosines(quantised.rows(pixels(files)), exact.rows(pixels(files)))
    record = quantised.quantisation
    assert record.calibration == quantised.spec.calibration
    assert (record.images, record.sample) == (24, 24)
    assert record.seconds > 0
    assert record.cosine_mean == pytest.approx(expected.mean(), abs=1e-6)
    assert record.cosine_min == pytest.approx(expected.min(), abs=1e-6)
    assert 0.99 < record.cosine_min < 1.0


@pytest.mark.slow
def test_a_pretrained_network_keeps_its_meaning_and_two_float32_convolutions(lite0, files: Files):
    ready = calibrated(load_backbone("efficientnet_lite0", image_size=64, precision="int8"), files)
    assert ready.quantisation.cosine_mean > 0.97
    assert convolution_precisions(ready) == ["f32"] * 2 + ["u8"] * 47


def convolution_precisions(backbone: Backbone) -> list[str]:
    """What each convolution reads, in the order of the graph that OpenVINO runs."""
    nodes = [op.get_rt_info() for op in backbone.engine._compiled.get_runtime_model().get_ordered_ops()]
    told = [[node[key].astype(str) for key in ("layerType", "runtimePrecision")] for node in nodes]
    return [precision for kind, precision in told if kind == "Convolution"]


def test_calibration_does_not_depend_on_order_or_names_or_repeats(int8_small, quantised, files: Files, tmp_path: Path):
    renamed = []
    for number, (content, path) in enumerate(reversed(files)):
        (tmp_path / f"renamed{number}.png").write_bytes(path.read_bytes())
        renamed.append((content, tmp_path / f"renamed{number}.png"))
    again = calibrated(int8_small, renamed + files[:3])
    assert again.spec == quantised.spec
    assert again.converted.folder == quantised.converted.folder


def test_other_images_give_another_spec(int8_small, quantised, files: Files):
    other = calibrated(int8_small, files[:12])
    assert set(other.spec.differences(quantised.spec)) == {"calibration"}
    assert other.quantisation.images == 12


def test_quantising_the_same_images_twice_gives_the_same_rows(
    small_file: Path, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows, specs = [], []
    for name in ("one", "two"):
        monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / name))
        backbone = load_backbone(str(small_file), precision="int8")
        ready = calibrated(backbone, files if name == "one" else files[::-1])
        rows.append(ready.rows(pixels(files)))
        specs.append(ready.spec)
    assert specs[0] == specs[1]
    np.testing.assert_array_equal(rows[0], rows[1])


def test_a_second_run_takes_the_graph_from_the_cache(
    small_file: Path, quantised, files: Files, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "onepass.extract.backbones.quantisation._quantised_model", lambda *_: pytest.fail("quantised again")
    )
    again = calibrated(load_backbone(str(small_file), precision="int8"), files)
    assert again.quantisation == quantised.quantisation
    np.testing.assert_array_equal(again.rows(pixels(files[:2])), quantised.rows(pixels(files[:2])))


def test_at_most_so_many_images_are_taken_and_others_compared(tiny_file: Path, tmp_path: Path, own_cache: Path):
    generator = np.random.default_rng(1)
    (tmp_path / "many").mkdir()
    for number in range(CALIBRATION_IMAGES + COMPARED_IMAGES + 6):
        picture(generator, size=(8, 8)).save(tmp_path / "many" / f"{number}.png")
    ready = calibrated(load_backbone(str(tiny_file), precision="int8"), with_hashes(tmp_path / "many"))
    assert (ready.quantisation.images, ready.quantisation.sample) == (CALIBRATION_IMAGES, COMPARED_IMAGES)


def test_unreadable_images_are_passed_over(tiny_file: Path, files: Files, tmp_path: Path, own_cache: Path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    broken = [(b"b" * 32, tmp_path / "broken.png"), (b"g" * 32, tmp_path / "gone.png")]
    backbone = load_backbone(str(tiny_file), precision="int8")
    assert calibrated(backbone, broken + files).quantisation.images == 24
    with pytest.raises(DataError) as caught:
        calibrated(backbone, broken)
    assert str(caught.value) == (
        "int8 is calibrated on images, and none of the 2 chosen for it could be read. "
        "Replace them, or use precision='float32' or bfloat16."
    )


def test_rows_are_refused_before_calibration(tiny_file: Path):
    backbone = load_backbone(str(tiny_file), precision="int8")
    assert (backbone.spec.calibration, backbone.quantisation) == ("", None)
    with pytest.raises(OptionError) as caught:
        backbone.rows(np.zeros((1, 32, 32, 3), np.uint8))
    assert str(caught.value) == (
        "tiny in int8 is not calibrated yet; needed: calibrated(backbone, files) with images of the kind it is for."
    )


def test_only_int8_is_calibrated(tiny_file: Path, files: Files):
    with pytest.raises(OptionError) as caught:
        calibrated(load_backbone(str(tiny_file), precision="float32"), files)
    assert str(caught.value) == "a backbone in float32 needs no calibration; load it with int8."


def test_int8_does_not_go_with_tensorflow(tiny_file: Path):
    with pytest.raises(OptionError) as caught:
        load_backbone(str(tiny_file), precision="int8", engine="tensorflow")
    assert str(caught.value) == (
        "precision='int8' does not go with engine='tensorflow'; use openvino, or another precision."
    )


def test_int8_is_openvinos_on_every_machine():
    assert choose_engine("auto", "int8") == choose_engine("openvino", "int8") == "openvino"


def test_a_processor_without_int8_is_told(quantised, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onepass.extract.backbones.engines._capabilities", lambda core: ["FP32"])
    fresh = load_backbone_for(quantised.spec, source=quantised.source, needed_by="x.head")
    with pytest.raises(BackboneError) as caught:
        _ = fresh.engine
    assert str(caught.value) == ("this processor cannot compute in int8. Extract, and train, with precision='float32'.")


def test_a_head_finds_its_calibrated_graph_again(quantised, files: Files):
    found = load_backbone_for(quantised.spec, source=BackboneOrigin("moved_away", "gone.h5"), needed_by="x.head")
    assert found.spec == quantised.spec
    assert found.quantisation == quantised.quantisation
    np.testing.assert_array_equal(found.rows(pixels(files[:2])), quantised.rows(pixels(files[:2])))


def test_a_float32_spec_never_gets_the_int8_graph(quantised, small_file: Path):
    exact = load_backbone(str(small_file), precision="float32")
    found = load_backbone_for(exact.spec, source=exact.source, needed_by="x.head")
    assert found.converted.folder == exact.converted.folder != quantised.converted.folder


def test_a_graph_that_is_gone_from_the_cache_is_told_with_the_folder_to_copy(quantised, own_cache: Path):
    with pytest.raises(BackboneError) as caught:
        load_backbone_for(quantised.spec, source=quantised.source, needed_by="x.head")
    calibration = quantised.spec.calibration
    assert str(caught.value) == (
        f"x.head needs small in int8 as calibrated then ({calibration}), and {own_cache} does not hold "
        f"it. Copy the folder *-int8-{calibration} there from the cache of the machine that extracted "
        "($ONEPASS_CACHE, or ~/.cache/onepass), or extract again to another file and train on that."
    )
    assert quantised.converted.folder.name.endswith(f"-int8-{calibration}")


def test_new_images_go_through_the_graph_of_the_rows_that_exist(int8_small, quantised, files: Files):
    more = [*files[:20], (b"n" * 32, files[23][1])]
    assert calibrated(int8_small, more, calibration=quantised.spec.calibration).spec == quantised.spec


def test_a_lost_graph_is_made_anew_from_the_same_images_and_refused_for_others(
    tiny_file: Path, files: Files, own_cache: Path
):
    backbone = load_backbone(str(tiny_file), precision="int8")
    wanted = calibrated(backbone, files).spec
    for left in own_cache.glob("*-int8-*/model.xml"):
        left.unlink()
    with pytest.raises(BackboneError, match=rf"^f.h5 needs tiny in int8 as calibrated then \({wanted.calibration}\)"):
        calibrated(backbone, files[:20], calibration=wanted.calibration, needed_by="f.h5")
    assert calibrated(backbone, files, calibration=wanted.calibration).spec == wanted


def test_a_crash_while_quantising_leaves_no_entry(
    tiny_file: Path, files: Files, own_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    backbone = load_backbone(str(tiny_file), precision="int8")
    before = sorted(own_cache.iterdir())
    monkeypatch.setattr("onepass.extract.backbones.quantisation.cosines", crash)
    with pytest.raises(ZeroDivisionError):
        calibrated(backbone, files)
    assert sorted(own_cache.iterdir()) == before


def crash(*_: object) -> None:
    raise ZeroDivisionError


def test_nncf_that_is_not_installed_is_told(tiny_file: Path, files: Files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(BackboneError) as caught:
        calibrated(load_backbone(str(tiny_file), precision="int8"), files)
    assert str(caught.value) == (
        'int8 needs NNCF, which is not installed. Run: pip install "onepass[int8]". '
        "Or use precision='float32' or bfloat16."
    )


def test_quantising_prints_nothing_sends_nothing_and_leaves_logging_alone(
    tmp_path: Path, tiny_file: Path, files: Files
):
    code = f"""{NO_NETWORK}
import logging
from pathlib import Path
from onepass.extract import load_backbone
from onepass.extract.backbones.quantisation import calibrated
files = [(path.name.encode(), path) for path in Path({str(files[0][1].parent)!r}).iterdir()]
calibrated(load_backbone({str(tiny_file)!r}, precision="int8"), files)
import time; time.sleep(0.5)
print(asked, "openvino_telemetry" in sys.modules, logging.getLoggerClass() is logging.Logger)
"""
    done = run_process("python", "-c", code, cwd=tmp_path, ONEPASS_CACHE=str(tmp_path / "cache"))
    assert (done.stdout, done.stderr) == ("[] False True\n", "")
