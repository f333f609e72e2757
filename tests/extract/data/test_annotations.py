"""Exports of annotation tools: boxes become images of their own, and what cannot be meant is refused by its place."""

import json
import os
import random
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from PIL import Image

from onepass.extract import Backbone, label, load_backbone, repair, run_extraction
from onepass.extract.data.columns import SourceOptions
from onepass.extract.data.source import Source
from onepass.extract.data.sources import open_source
from onepass.extract.data.tables import read_table
from onepass.extract.pixels.crops import Box
from onepass.extract.pixels.decode import decode_image, decode_whole
from onepass.extract.pixels.image_bytes import read_bytes
from onepass.extract.upkeep.verify import verify
from onepass.features import FeatureFile, OnepassWarning
from onepass.features.errors import DataError, UserError
from support import flip_bit, picture

SIZE = (80, 60)
BOXES = [  # image, class, left, top, width, height
    ("street/0.png", "ant", 0, 0, 20, 30),
    ("street/0.png", "bee", 20, 10, 30, 20),
    ("street/1.png", "ant", 8, 6, 40, 30),
    ("street/1.png", "bee", 40, 30, 40, 30),
    ("yard/2.png", "ant", 4, 3, 16, 12),
    ("yard/2.png", "bee", 60, 0, 20, 60),
]
IMAGES = sorted({image for image, *_ in BOXES})


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in IMAGES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(rng, SIZE).save(path)
    return tmp_path / "photos"


def coco(boxes: list[tuple[Any, ...]] = BOXES, **more: object) -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": name, "width": 80, "height": 60} for i, name in enumerate(IMAGES)],
        "categories": [{"id": 1, "name": "ant"}, {"id": 7, "name": "bee"}],
        "annotations": [
            {"image_id": IMAGES.index(image), "category_id": {"ant": 1, "bee": 7}[name], "bbox": sides, **more}
            for image, name, *sides in boxes
        ],
    }


def cvat(boxes: list[tuple[Any, ...]] = BOXES) -> str:
    images = "".join(
        f"<image id='{i}' name={quoteattr(name)} subset='train' width='80' height='60'>"
        + "".join(
            f"<box label={quoteattr(c)} xtl='{x}' ytl='{y}' xbr='{x + w}' ybr='{y + h}' occluded='0'/>"
            for image, c, x, y, w, h in boxes
            if image == name
        )
        + "</image>"
        for i, name in enumerate(IMAGES)
    )
    return f"<?xml version='1.0' encoding='utf-8'?><annotations><version>1.1</version>{images}</annotations>"


def label_studio(boxes: list[tuple[Any, ...]] = BOXES) -> list[dict[str, Any]]:
    def result(name: str, x: float, y: float, w: float, h: float) -> dict[str, Any]:
        value = {"x": x / 0.8, "y": y / 0.6, "width": w / 0.8, "height": h / 0.6, "rotation": 0}
        return {
            "type": "rectanglelabels", "from_name": "label", "to_name": "image",
            "original_width": 80, "original_height": 60, "value": {**value, "rectanglelabels": [name]},
        }  # fmt: skip

    return [
        {
            "id": i,
            "data": {"image": f"/data/upload/1/0a1b2c3d-{Path(image).name}", "farm": f"farm {i % 2}"},
            "annotations": [{"result": [result(*one) for name, *one in boxes if name == image]}],
        }
        for i, image in enumerate(IMAGES)
    ]


def short_label_studio() -> list[dict[str, Any]]:
    return [
        {
            "id": task["id"],
            "image": task["data"]["image"],
            "label": [
                {**one["value"], "original_width": 80, "original_height": 60}
                for one in task["annotations"][0]["result"]
            ],
        }
        for task in label_studio()
    ]


def written(form: str, content: object = None) -> Path:
    path = Path(f"{form}.{'xml' if form == 'cvat' else 'json'}")
    content = content or {"coco": coco, "cvat": cvat, "studio": label_studio, "short": short_label_studio}[form]()
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def opened(path: Path, /, **options: object) -> Source:
    flat = form_is_flat(path)
    return open_source(path, SourceOptions.of({"images": "flat" if flat else "photos", **options}))


def form_is_flat(path: Path) -> bool:
    """Label Studio knows files by their last name alone."""
    if flat := path.stem in ("studio", "short"):
        Path("flat").mkdir(exist_ok=True)
        for name in IMAGES:
            (Path("flat") / Path(name).name).write_bytes((Path("photos") / name).read_bytes())
    return flat


@pytest.mark.parametrize("resize", ["squash", "crop", "pad", "keras"])
@pytest.mark.parametrize("form", ["coco", "cvat", "studio", "short"])
def test_a_box_has_the_row_of_its_pixels_saved_as_an_image(form: str, resize: str, tiny_file: Path):
    for image, name, *sides in BOXES:
        x, y, w, h = sides
        path = Path("cut") / name / f"{Path(image).stem}-{x}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(Path("photos") / image).crop((x, y, x + w, y + h)).save(path)
    backbone = load_backbone(str(tiny_file), resize=resize, precision="float32")
    done = run_extraction(opened(written(form)), backbone, out="boxes.h5")
    cut = run_extraction("cut", backbone, out="cut.h5")
    assert (done.images, done.computed, done.classes) == (6, 6, {"ant": 3, "bee": 3})
    with FeatureFile("boxes.h5") as boxes, FeatureFile(cut.path) as wanted:
        where = {(path.split("/")[0], path.split("/")[1].split(".")[0]): i for i, path in enumerate(wanted.table.paths)}
        for i, path in enumerate(boxes.table.paths):
            stem, _, sides = Path(path).stem.partition("@")
            other = where[boxes.table.class_names[boxes.table.labels[i]], f"{stem}-{sides.split(',')[0]}"]
            np.testing.assert_array_equal(boxes.rows[i], wanted.rows[other])
        groups = boxes.table.groups
        assert [Path(group).name for group in groups] == [f"{Path(path).stem[0]}.png" for path in boxes.table.paths]


def test_a_file_of_boxes_is_kept_up_like_any_other(tiny_backbone: Backbone):
    path = written("coco")
    done = run_extraction(path, tiny_backbone, images="photos", out="f.h5")
    assert run_extraction(path, tiny_backbone, images="photos", out="f.h5").computed == 0
    flip_bit(Path("f.h5"), "rows", byte=9)
    assert repair("f.h5").computed == 1
    assert verify("f.h5").verdict == "whole"
    more = written("coco", coco([*BOXES, ("yard/2.png", "ant", 0, 0, 9, 9)]))
    again = run_extraction(more, tiny_backbone, images="photos", out="f.h5")
    assert (again.images, again.computed) == (done.images + 1, 1)
    swapped = written("coco", coco([(image, "bee" if c == "ant" else "ant", *box) for image, c, *box in BOXES]))
    relabelled = label("f.h5", swapped)
    assert (relabelled.changed, relabelled.unlabelled, relabelled.unknown) == (7, 1, ())


def test_boxes_are_clipped_to_the_image_and_those_outside_are_skipped(tiny_backbone: Backbone):
    boxes = [*BOXES, ("yard/2.png", "ant", 70, 50, 500, 500), ("yard/2.png", "bee", 200, 0, 20, 20)]
    done = run_extraction(written("coco", coco(boxes)), tiny_backbone, images="photos", out="f.h5")
    assert (done.images, len(done.skipped)) == (7, 1)
    assert done.skipped[0].reason == "its box 200,0,20,20 lies outside of 80 x 60 pixels"


def test_a_box_counts_in_the_image_as_it_is_seen():
    upright = Image.open("photos/street/0.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the left; viewers turn it back
    upright.transpose(Image.Transpose.ROTATE_90).save("photos/street/0.jpg", exif=exif, quality=100, subsampling=0)
    store = opened(written("coco")).store
    data = read_bytes(store.file("street/0@8,6,40,30.jpg"))
    wanted = np.asarray(upright.crop((8, 6, 48, 36))).astype(int)
    assert np.abs(decode_whole(data, resize="squash").astype(int) - wanted).mean() < 3
    assert decode_image(data, image_size=16, resize="squash").shape == (16, 16, 3)


def test_labels_of_whole_images():
    tags = cvat([]).replace("'60'></image>", "'60'><tag label='wet'/></image>", 1).replace(
        "'60'></image>", "'60'><tag label='wet'/><tag label='cold'/></image>", 1
    )  # fmt: skip
    source = opened(written("cvat", tags))
    assert (source.table.task, source.table.class_names) == ("labels", ("cold", "wet"))
    assert source.table.targets.tolist() == [[0, 1], [1, 1]]
    assert source.table.paths == ("street/0.png", "street/1.png")
    assert list(source.other) == ["yard/2.png"]  # nobody has said anything of it

    whole = {"annotations": [{"image_id": i, "category_id": (1, 7, 7)[i]} for i in range(3)]}
    source = opened(written("coco", {**coco(), **whole}))
    assert (source.table.task, source.table.labels.tolist()) == ("classes", [0, 1, 1])

    tasks = label_studio([])
    for i, task in enumerate(tasks):
        task["annotations"][0]["result"] = [
            {"from_name": "kind", "type": "choices", "value": {"choices": ["ant" if i else "bee"]}},
            {"from_name": "age", "type": "number", "value": {"number": i + 0.5}},
        ]
    source = opened(written("studio", tasks), group="farm")
    assert [source.table.class_names[i] for i in source.table.labels] == ["bee", "ant", "ant"]
    assert source.table.groups == ("farm 0", "farm 1", "farm 0")
    assert opened(written("studio", tasks), target="age").table.targets.ravel().tolist() == [0.5, 1.5, 2.5]


def test_shapes_become_the_boxes_around_them():
    turned = "<box label='ant' xtl='10' ytl='20' xbr='30' ybr='30' rotation='90'/>"  # about its middle, (20, 25)
    polygon = "<polygon label='bee' points='1.5,2.5;30,4;7,20.2'/>"
    mask = "<mask label='ant' left='3' top='4' width='5' height='6' rle='1'/>"
    text = cvat([]).replace("'60'></image>", f"'60'>{turned}{polygon}{mask}</image>", 1)
    assert read_table(written("cvat", text)).boxes == (Box(15, 15, 10, 20), Box(1, 2, 29, 19), Box(3, 4, 5, 6))

    task = label_studio([("street/0.png", "ant", 40, 0, 20, 10)])
    task[0]["annotations"][0]["result"][0]["value"]["rotation"] = 90  # about its corner, (40, 0)
    assert read_table(written("studio", task)).boxes == (Box(30, 0, 10, 20),)

    crowd = coco(iscrowd=1)
    crowd["annotations"][0].update(iscrowd=0, bbox=None, segmentation=[[1, 2, 9, 2, 9, 8.5]])
    records = read_table(written("coco", crowd))
    assert records.boxes == (Box(1, 2, 8, 7),)
    assert records.notes == ("coco.json: 5 crowds left out.",)


def test_boxes_and_labels_of_whole_images_are_not_mixed(tiny_backbone: Backbone):
    text = cvat().replace("'60'>", "'60'><tag label='wet'/>", 1)
    with pytest.warns(
        OnepassWarning, match=r"^cvat.xml: 1 labels of whole images, because there are boxes left out\.$"
    ):
        done = run_extraction(written("cvat", text), tiny_backbone, images="photos", out="f.h5")
    assert done.images == 6


def spoiled(form: str, change: Any) -> Path:
    content: Any = {"coco": coco, "studio": label_studio}[form]()
    change(content)
    return written(form, content)


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        (
            "coco",
            lambda c: c["annotations"][2].update(category_id=9),
            "coco.json, annotation 3: '9'; needed: a category_id that one of the categories has.",
        ),
        (
            "coco",
            lambda c: c["annotations"][1].update(image_id=None),
            "coco.json, annotation 2: 'None'; needed: image_id, the id of an image.",
        ),
        (
            "coco",
            lambda c: c["annotations"][0].update(bbox=[1, 2, 3]),
            "coco.json, annotation 1: '[1, 2, 3]'; needed: bbox, which is left, top, width and height.",
        ),
        (
            "coco",
            lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4]),
            "coco.json, annotation 1: '[1, 2, -3, 4]'; needed: bbox with a width and a height above 0.",
        ),
        (
            "coco",
            lambda c: c["annotations"][0].update(bbox=[-9, 2, 8, 4]),
            "coco.json, annotation 1: '[(-9, 2), (-1, 6)]'; needed: a box inside of the image, of one pixel or more.",
        ),
        (
            "coco",
            lambda c: c["images"][1].pop("file_name"),
            "coco.json, image 2: 'None'; needed: file_name, the name of its file.",
        ),
        (
            "coco",
            lambda c: c["images"][0].update(file_name="../../etc/passwd"),
            "coco.json, annotation 1, column image: '../../etc/passwd'; needed: a name below the folder of the images.",
        ),
        ("coco", lambda c: c["annotations"].clear(), "coco.json is an export of COCO without labels."),
        (
            "coco",
            lambda c: c.pop("annotations"),
            "coco.json, the whole file: 'None'; needed: annotations, a list of them, as COCO has it.",
        ),
        (
            "coco",
            lambda c: c["annotations"].append({**c["annotations"][0], "category_id": 7}),
            ("coco.json gives street/0@0,0,20,30.png two labels in column label: 'ant' in annotation 1, 'bee' in "
            "annotation 7. Needed: one. If an image has several labels, give label_separator."),
        ),
        (
            "studio",
            lambda c: c[1]["annotations"].append(c[1]["annotations"][0]),
            "studio.json, task 1 has 2 annotations; needed: one. Mark the right one as ground truth.",
        ),
        (
            "studio",
            lambda c: c[2]["annotations"][0]["result"][0].update(original_width="wide"),
            "studio.json, task 2: 'wide'; needed: original_width, pixels.",
        ),
        (
            "studio",
            lambda c: c[0]["annotations"][0]["result"][0]["value"].update(x=None),
            "studio.json, task 0: ",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_its_place(form: str, change: Any, message: str):
    with pytest.raises(DataError) as caught:
        opened(spoiled(form, change))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><image/></annotations>", "cvat.xml, an image: '{}'; needed: its name."),
        ("<annotations>", "cvat.xml is not XML: no element found: line 1, column 13."),
        ("<html></html>", "cvat.xml is XML of 'html'; needed: the export `CVAT for images`."),
        (
            "<annotations><track id='0'/></annotations>",
            "cvat.xml holds tracks of a video; needed: the export `CVAT for images`.",
        ),
        (
            "<annotations><image name='a.png'><box xtl='1'/></image></annotations>",
            "cvat.xml, box of a.png: \"{'xtl': '1'}\"; needed: its label.",
        ),
        (
            "<annotations><image name='a.png'><box label='a' xtl='1'/></image></annotations>",
            "cvat.xml, box of a.png: \"{'label': 'a', 'xtl': '1'}\"; needed: its corners, in pixels.",
        ),
        (
            "<!DOCTYPE a [<!ENTITY b 'bbb'>]><annotations>&b;</annotations>",
            "cvat.xml declares entities, which no export does; it is not read.",
        ),
    ],
)
def test_xml_that_is_no_export(text: str, message: str):
    Path("cvat.xml").write_text(text)
    with pytest.raises(DataError) as caught:
        opened(Path("cvat.xml"))
    assert str(caught.value) == message


HOSTILE = ['"../"', "null", "[]", "{}", "-1", "1e999", "1e300", '"\\u0000"', "<", "&amp;", "'", "true", '""', "9" * 30]


def test_damaged_exports_end_in_a_message():
    """Ten thousand of each with ONEPASS_FUZZ: each is read or refused, and nothing outside the folder is named."""
    generator = random.Random(7)
    for form in ("coco", "cvat", "studio", "short"):
        path = written(form)
        seed = path.read_bytes()
        form_is_flat(path)
        for _ in range(int(os.environ.get("ONEPASS_FUZZ", "300"))):
            data = bytearray(seed)
            for _ in range(generator.randint(1, 4)):
                place, action = generator.randrange(len(data)), generator.random()
                if action < 0.4:
                    data[place] = generator.randrange(256)
                elif action < 0.6:
                    del data[place : place + generator.randint(1, 20)]
                else:  # in the place of a value
                    end = data.find(b",", place)
                    start = data.rfind(b":", 0, place)
                    if 0 <= start < end:
                        data[start + 1 : end] = generator.choice(HOSTILE).encode()
            path.write_bytes(data)
            try:
                source = opened(path)
            except UserError:
                continue
            assert not any(".." in name.split("/") or name.startswith("/") for name in source.table.paths)
