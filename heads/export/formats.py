"""The formats a model is exported to: how each is written, and how its own runtime loads and runs it.

To be used within `plain_keras()`. What a format needs beyond TensorFlow is imported when it is asked for.
"""

import contextlib
import io
import json
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onepass.extract import Tensor, has_attention, import_nncf, import_openvino, quiet_stderr
from onepass.features.errors import CertificateError, ExportError, OptionError, UserError, cannot_write, is_full, opt
from onepass.heads.export.certificate import Certificate
from onepass.heads.export.equivalence import Runtime
from onepass.heads.export.inference_model import WholeModel
from onepass.heads.finetune.model_file import load_model, write_model


@dataclass(frozen=True, eq=False)
class OneByOne:
    """A model that takes one image at a time, run on batches all the same."""

    run: Runtime

    def __call__(self, batch: Any) -> np.ndarray:
        return np.concatenate([self.run(batch[i : i + 1]) for i in range(len(batch))])


def some_or_one(run: Runtime, *, many: bool) -> Runtime:
    """A runtime that takes batches, whether or not the model does."""
    return run if many else OneByOne(run)


class Format(ABC):
    """One format.

    Attributes:
        name: As in --to.
        takes: pixels: (b, s, s, 3) as the resize rule makes them; images: (b, h, w, 3) uint8 of any size, all
            of one; bytes: (b,) encoded JPEG or PNG files.
        runtime: Distribution whose version counts.
    """

    name: ClassVar[str]
    takes: ClassVar[str] = "pixels"
    runtime: ClassVar[str] = "tensorflow"

    @abstractmethod
    def write(self, whole: WholeModel, path: Path, precision: str, sample: np.ndarray) -> None:
        """Writes a model.

        Args:
            whole: The model.
            path: Where; there is nothing yet, and nothing else in its folder.
            precision: Of the weights.
            sample: (m, s, s, 3) pixels of training images, to measure the ranges of int8 on; else empty.
        """

    @abstractmethod
    def load(self, path: Path) -> Runtime:
        """The model as its own runtime runs it."""


class KerasFile(Format):
    name, runtime = "keras", "keras"

    def write(self, whole: WholeModel, path: Path, precision: str, sample: np.ndarray) -> None:  # noqa: ARG002
        write_model(whole.keras, path, whole.facts)

    def load(self, path: Path) -> Runtime:
        model = load_model(path)
        return lambda batch: np.asarray(model.predict_on_batch(batch))


class LegacyFile(KerasFile):
    name = "h5"


class SavedModel(Format):
    """A folder for TensorFlow Serving; resizing and preprocessing lie inside."""

    name, takes = "savedmodel", "images"

    def write(self, whole: WholeModel, path: Path, precision: str, sample: np.ndarray) -> None:  # noqa: ARG002
        import tensorflow as tf

        serve, signature = self._endpoint(whole)
        # Not by Keras's ExportArchive, which writes every weight twice.
        module = tf.Module()
        module.weights = [variable.value for variable in whole.keras.variables]
        module.serve = tf.function(serve, input_signature=signature, autograph=False)
        tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
        beside = path / "assets.extra"
        beside.mkdir()
        (beside / "onepass.json").write_text(json.dumps(whole.metadata, indent=1), encoding="utf-8")

    def _endpoint(self, whole: WholeModel) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
        import tensorflow as tf

        def serve(images: Tensor) -> Tensor:
            return {whole.gives: whole.keras(whole.resizer(images), training=False)}

        return serve, [tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")]

    def load(self, path: Path) -> Runtime:
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))
        serve = loaded.signatures["serving_default"]

        def run(batch: np.ndarray | Sequence[bytes], _kept: Any = loaded) -> np.ndarray:
            (found,) = serve(tf.constant(batch)).values()
            return np.asarray(found)

        return run


class SavedModelOfBytes(SavedModel):
    """The same for encoded files."""

    takes = "bytes"

    def _endpoint(self, whole: WholeModel) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
        import tensorflow as tf

        size = whole.spec.image_size

        def decoded(data: Tensor) -> Tensor:
            if whole.spec.resize == "keras":
                return tf.io.decode_image(data, channels=3, expand_animations=False)
            return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")  # reads PNG too

        def pixels(data: Tensor) -> Tensor:
            return tf.ensure_shape(whole.resizer(decoded(data)[None])[0], (size, size, 3))

        def serve(files: Tensor) -> Tensor:
            made = tf.map_fn(pixels, files, fn_output_signature=whole.keras.inputs[0].dtype)
            return {whole.gives: whole.keras(made, training=False)}

        return serve, [tf.TensorSpec((None,), tf.string, name="files")]


class Onnx(Format):
    """ONNX; resizing and preprocessing lie inside."""

    name, takes, runtime = "onnx", "images", "onnxruntime"
    opset: ClassVar[int] = 18

    def write(self, whole: WholeModel, path: Path, precision: str, sample: np.ndarray) -> None:  # noqa: ARG002
        onnx = _needed("onnx", self.name)
        made = whole.onnx(self.opset)
        for key, value in whole.metadata.items():
            entry = made.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.save(made, str(path))

    def load(self, path: Path) -> Runtime:
        session = _needed("onnxruntime", self.name).InferenceSession(str(path), providers=["CPUExecutionProvider"])
        many = session.get_inputs()[0].shape[0] != 1
        return some_or_one(lambda batch: np.asarray(session.run(None, {"images": batch})[0]), many=many)


class OpenVino(Format):
    """An OpenVINO graph, its weights beside it in a .bin file."""

    name, runtime = "openvino", "openvino"

    def write(self, whole: WholeModel, path: Path, precision: str, sample: np.ndarray) -> None:
        ov = import_openvino()
        plain = path.with_name("float32.xml")
        whole.write_openvino(plain)
        model = ov.Core().read_model(plain)
        if precision == "int8":
            nncf = import_nncf()
            dataset = nncf.Dataset([image[None] for image in sample])
            kind = nncf.ModelType.TRANSFORMER if has_attention(plain) else None
            model = nncf.quantize(model, dataset, subset_size=len(sample), model_type=kind)
        for key, value in whole.metadata.items():
            model.set_rt_info(value, ["onepass", key])
        ov.save_model(model, path, compress_to_fp16=precision == "float16")
        del model  # which has mapped the file
        for part in (plain, plain.with_suffix(".bin")):
            part.unlink()

    def load(self, path: Path) -> Runtime:
        core = import_openvino().Core()
        compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        many = compiled.input(0).get_partial_shape()[0].is_dynamic
        return some_or_one(lambda batch: np.array(compiled(batch)[0]), many=many)


class TfLite(Format):
    """A LiteRT file. Metadata lies in a zip archive at its end, as TensorFlow Lite's own does."""

    name, runtime = "tflite", "ai-edge-litert"

    def write(self, whole: WholeModel, path: Path, precision: str, sample: np.ndarray) -> None:
        import tensorflow as tf

        folder = path.with_name("saved")
        whole.keras.export(str(folder), format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.representative_dataset = lambda: ([image[None]] for image in sample)
        path.write_bytes(converter.convert())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("labels.txt", "\n".join(whole.class_names).encode(errors="backslashreplace"))
            archive.writestr("onepass.json", json.dumps(whole.metadata))

    def load(self, path: Path) -> Runtime:
        interpreter = _needed("ai_edge_litert.interpreter", self.name).Interpreter(str(path))
        (asked,), (told,) = interpreter.get_input_details(), interpreter.get_output_details()

        def run(batch: np.ndarray) -> np.ndarray:
            if tuple(interpreter.get_input_details()[0]["shape"]) != batch.shape:
                interpreter.resize_tensor_input(asked["index"], batch.shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(asked["index"], batch)
            interpreter.invoke()
            return np.array(interpreter.get_tensor(told["index"]))

        return run


_FORMATS: tuple[type[Format], ...] = (KerasFile, LegacyFile, SavedModel, Onnx, OpenVino, TfLite)
_NEEDS = {"onnx": ("tf2onnx", "onnx", "onnxruntime"), "tflite": ("ai_edge_litert.interpreter",)}


def format_of(name: str, *, takes_bytes: bool = False) -> Format:
    """The format of a name in --to.

    Raises:
        OptionError: What it needs is not installed.
    """
    for module in _NEEDS.get(name, ()):
        _needed(module, name)
    if takes_bytes and name == SavedModel.name:
        return SavedModelOfBytes()
    return {kind.name: kind for kind in _FORMATS}[name]()


def certified_format(certificate: Certificate) -> Format:
    """The format of the model that a certificate is about.

    Raises:
        OptionError: What it needs is not installed.
        CertificateError: The certificate says of the format what is not so.
    """
    kind = format_of(certificate.to, takes_bytes=certificate.takes == "bytes")
    if kind.takes != certificate.takes:
        raise CertificateError(f"the certificate says that {kind.name} takes {certificate.takes}; it is damaged.")
    return kind


def _needed(module: str, name: str) -> Any:
    """A package of an optional extra.

    Raises:
        OptionError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".", maxsplit=1)[0]:
            raise
        raise OptionError(
            f'{name} needs {error.name.replace("_", "-")}, which is not installed. Run: pip install "onepass[{name}]".'
        ) from None


@contextlib.contextmanager
def running(what: str, path: Path | None = None) -> Iterator[None]:
    """Other people's converters and runtimes: kept quiet, and whatever they raise becomes one error.

    Args:
        what: What runs, in words.
        path: What it writes, if it does.

    Raises:
        ExportError: Naming what failed.
    """
    try:
        with quiet_stderr(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield
            except UserError:
                raise
            except Exception as error:
                if is_full(error):
                    raise ExportError(cannot_write(path or what, error, opt.out)) from None
                reason = (str(error).strip().splitlines() or [""])[0][:300]
                raise ExportError(f"{what} cannot be had: {type(error).__name__}: {reason}") from error
    except ExportError as error:
        raise error from None
