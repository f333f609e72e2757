"""How transformers' own processor prepares images, asked in a process of its own.

It may import torchvision, which ends a process that has TensorFlow loaded.
"""

import importlib.util
import io
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from onepass.extract.backbones.golden import golden_images
from onepass.extract.backbones.proof import Transform
from onepass.features.progress import log

_CODE = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from transformers import AutoImageProcessor
processor = AutoImageProcessor.from_pretrained(sys.argv[1], local_files_only=True, trust_remote_code=False)
images = [Image.open(path).convert("RGB") for path in sorted(Path(sys.argv[2]).glob("*.png"))]
values = [np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0], np.float32) for image in images]
np.save(sys.argv[3], np.stack(values))
"""
_QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error", "USE_TF": "0"}
_PATIENCE = 300  # seconds


def processor_transform(folder: Path) -> Transform | None:
    """The processor of a folder, for the golden images; None where transformers is not installed or cannot do it."""
    if importlib.util.find_spec("transformers") is None:
        return None
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in golden_images()]
    with TemporaryDirectory() as place:
        for number, image in enumerate(images):
            image.save(Path(place) / f"{number}.png", compress_level=1)
        result = Path(place) / "values.npy"
        command = [sys.executable, "-P", "-c", _CODE, str(folder), place, str(result)]
        try:
            subprocess.run(command, env=os.environ | _QUIET, capture_output=True, timeout=_PATIENCE, check=True)
            found = np.load(result, allow_pickle=False)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            log.info("not compared with transformers' processor: %s", error)
            return None
    seen = {image.tobytes(): values.transpose(1, 2, 0) for image, values in zip(images, found, strict=True)}
    return Transform(
        f"transformers {version('transformers')}",
        lambda image, pixels: seen[image.tobytes()],  # noqa: ARG005
    )
