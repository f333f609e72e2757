"""For Label Studio: tasks with predictions, and how the screen looks; `label` reads what people made of them."""

import json
import os
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from onepass.features import LABELS, NUMBER
from onepass.features.names import shown
from onepass.features.tables import Record
from onepass.heads.share.shared_images import Said, SharedImages

_FROM, _TO = "label", "image"


def write_label_studio(images: SharedImages, folder: Path) -> list[str]:
    """Writes tasks.json and labels.xml.

    Images are named as Label Studio serves files of its own machine, below the folder that holds that of the images:
    `/data/local-files/?d=photos/cats/1.jpg`. Labels that are there and what the head says are predictions: a task has
    an annotation only once somebody has said so.

    Returns:
        What else the user should know.
    """
    files = images.files("Label Studio")
    root = _root(images, files)
    tasks = []
    for file, split, label, said in zip(files, images.splits, images.labels, images.predictions, strict=True):
        address = "/data/local-files/?d=" + quote(os.fsencode(file.relative_to(root)))
        predictions = [
            _prediction(one, images.task, version)
            for one, version in (
                (said, images.head.path.name if images.head else ""),
                (label if images.table.task == images.task else None, f"labels of {images.file.path.name}"),
            )
            if one is not None
        ]
        data = {_TO: address, "split": split, **({"now": shown(str(label))} if label else {})}
        tasks.append({"data": data, "predictions": predictions})
    (folder / "tasks.json").write_text(json.dumps(tasks, indent=1), encoding="utf-8")
    (folder / "labels.xml").write_text(_screen(images), encoding="utf-8")
    notes = [f"Label Studio needs LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={shown(root)} and local files allowed"]
    if not images.class_names and images.task != NUMBER:
        notes.append("labels.xml has no class to choose yet, because nothing is labelled: write yours into it")
    return notes


def _root(images: SharedImages, files: list[Path]) -> Path:
    """The folder that holds that of the images: Label Studio serves none that is the root itself."""
    steps = len(Path(images.table.paths[0]).parts)
    return files[0].parents[steps - 1].parent


def _prediction(said: Said, task: str, version: str) -> Record:
    result: Record = {"from_name": _FROM, "to_name": _TO}
    if task == NUMBER:
        result |= {"type": "number", "value": {"number": said.number}}
    else:
        result |= {"type": "choices", "value": {"choices": [shown(name) for name in said.names]}}
    found: Record = {"model_version": shown(version), "result": [result]}
    return found if said.confidence is None else {**found, "score": said.confidence}


def _screen(images: SharedImages) -> str:
    """The labelling configuration."""
    choices = "\n".join(f"    <Choice value={quoteattr(shown(name))}/>" for name in images.class_names)
    several = "multiple" if images.task == LABELS else "single-radio"
    asked = f"""  <Choices name="{_FROM}" toName="{_TO}" choice="{several}">
{choices}
  </Choices>"""
    number = f'  <Number name="{_FROM}" toName="{_TO}"/>'
    return f"""<View>
  <Image name="{_TO}" value="${_TO}"/>
{number if images.task == NUMBER else asked}
</View>
"""
