"""Imports the heavy frameworks the way every part needs them: late, quiet and without telemetry."""

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO, TypeAlias

from onepass.extract.machine import cache_folder
from onepass.features.errors import BackboneError, DataError, UserError, opt

# onnxruntime from 1.29 on leaves a device id and queued events in the user's home as soon as it is imported,
# by whatever package; so this is set before any of them is.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Keras and TensorFlow have no types of use to a checker; these names say what is meant.
KerasModel: TypeAlias = Any
KerasLayer: TypeAlias = Any
KerasVariable: TypeAlias = Any
KerasModule: TypeAlias = Any
Optimizer: TypeAlias = Any
Tensor: TypeAlias = Any


_backend = "tensorflow"


def choose_keras_backend(name: str) -> None:
    """Makes `import_keras` give Keras on another backend, for the rest of this process; before Keras is imported."""
    global _backend
    _backend = name


def import_keras() -> Any:
    """Keras on TensorFlow, without the start-up lines that TensorFlow prints.

    Raises:
        BackboneError: Keras is already loaded with another backend than TensorFlow.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = _backend
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    quiet = quiet_stderr() if "tensorflow" not in sys.modules else contextlib.nullcontext()
    with quiet, _without_keras_json(), _with_our_font_list():
        keras = importlib.import_module("keras")
    if keras.backend.backend() != _backend:
        raise BackboneError(
            f"Keras runs on {keras.backend.backend()} here; onepass needs TensorFlow. Set "
            "KERAS_BACKEND=tensorflow before Keras is imported, or restart the notebook."
        )
    return keras


@contextlib.contextmanager
def _without_keras_json() -> Iterator[None]:
    """Takes back the settings file that Keras writes in the user's home where there is none; TensorFlow reads none."""
    home = Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser())
    settings, had_home = home / "keras.json", home.exists()
    had_settings = settings.exists()
    yield
    with contextlib.suppress(OSError):
        if not had_settings:
            settings.unlink()
        if not had_home:
            home.rmdir()


@contextlib.contextmanager
def _with_our_font_list() -> Iterator[None]:
    """Sends the list of fonts that Matplotlib makes to our cache, where its user has no folder for it yet.

    Keras imports Matplotlib where it is installed.
    """
    folders = [Path("~/.cache/matplotlib").expanduser(), Path("~/.config/matplotlib").expanduser()]
    if "MPLCONFIGDIR" in os.environ or "matplotlib" in sys.modules or any(folder.exists() for folder in folders):
        yield
        return
    os.environ["MPLCONFIGDIR"] = str(cache_folder() / "matplotlib")
    try:
        yield
    finally:
        del os.environ["MPLCONFIGDIR"]


def import_matplotlib() -> ModuleType:
    """Matplotlib, whose own files stay in our cache where its user has no folder for them yet."""
    with _with_our_font_list():
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.get_cachedir()  # which remembers where it was at the first call
    return matplotlib


@contextlib.contextmanager
def plain_keras(precision: str = "float32") -> Iterator[Any]:
    """Keras in a fresh session with its factory settings, whatever the user's `keras.json` says.

    Args:
        precision: float32, or bfloat16 for Keras's mixed policy (weights stay float32).

    Yields:
        The keras module; the user's settings are back afterwards.
    """
    keras = import_keras()
    config = keras.config
    before = config.image_data_format(), config.floatx(), config.dtype_policy()
    keras.backend.clear_session()  # also resets the policy, so it comes first
    config.set_image_data_format("channels_last")
    config.set_floatx("float32")
    config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        yield keras
    finally:
        config.set_image_data_format(before[0])
        config.set_floatx(before[1])
        config.set_dtype_policy(before[2])


def require_keras_hub(needed_by: str) -> None:
    """Refuses, without importing anything, what needs KerasHub where it is not installed.

    Raises:
        BackboneError: With how to install it.
    """
    if importlib.util.find_spec("keras_hub") is None:
        raise BackboneError(
            f'{needed_by} is built by KerasHub, which is not installed. Run: pip install "onepass[kerashub]".'
        )


def import_keras_hub() -> Any:
    """KerasHub on our Keras, without usage statistics.

    Raises:
        BackboneError: It is not installed, or Keras is already loaded with another backend than TensorFlow.
    """
    require_keras_hub("this network")
    import_keras()
    import_huggingface_hub()
    with quiet_stderr() if "keras_hub" not in sys.modules else contextlib.nullcontext():
        hub = importlib.import_module("keras_hub")
    _make_swin_convertible()
    _correct_shapes_of_siglip()
    return hub


class _ConvertibleOps:
    """`keras.ops` with `slice_update` made of paddings: TensorFlow's own way is an XLA operation nobody converts."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def slice_update(self, inputs: Any, start_indices: Any, updates: Any) -> Any:
        ends = [
            whole - start - part for whole, start, part in zip(inputs.shape, start_indices, updates.shape, strict=True)
        ]
        around = list(zip(start_indices, ends, strict=True))
        kept = 1 - self._ops.pad(self._ops.ones_like(updates), around)
        return inputs * kept + self._ops.pad(updates, around)


def _make_swin_convertible() -> None:
    """Lets OpenVINO and ONNX have the masks of Swin, which KerasHub computes anew in every call.

    Keras takes them for masks of its own, and would warn that they end in the layer that they are made for.
    """
    layers: Any = importlib.import_module("keras_hub.src.models.swin_transformer.swin_transformer_layers")
    if isinstance(layers.ops, _ConvertibleOps):
        return
    layers.ops = _ConvertibleOps(layers.ops)
    masks = property(lambda _: True, lambda _, value: None)  # noqa: ARG005
    layers.WindowAttention.supports_masking = masks


def _correct_shapes_of_siglip() -> None:
    """Lets SigLIP be cut at a block: KerasHub counts a class token into its shapes that it does not have."""
    layers: Any = importlib.import_module("keras_hub.src.models.siglip.siglip_layers")
    layers.SigLIPVisionEmbedding.compute_output_shape = lambda layer, shape: (
        shape[0],
        layer.num_positions,
        layer.hidden_dim,
    )


def import_huggingface_hub() -> Any:
    """huggingface_hub, which KerasHub downloads by, without usage statistics and progress bars.

    Raises:
        BackboneError: It is not installed.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read once, as it is imported
    try:
        hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError:
        raise BackboneError(
            "names of the Hugging Face hub need huggingface_hub, which is not installed. Run: pip install "
            '"onepass[kerashub]", or give a folder.'
        ) from None
    # Where somebody else was the first to import it.
    constants: Any = importlib.import_module("huggingface_hub.constants")
    constants.HF_HUB_DISABLE_TELEMETRY = True
    return hub


def import_datasets() -> Any:
    """The library of data sets of Hugging Face, without usage statistics.

    Raises:
        DataError: It is not installed.
    """
    with _extra("datasets", "data sets of Hugging Face need the library datasets"):
        import_huggingface_hub()
        os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"  # or each load of a data set is told by its name
        library = importlib.import_module("datasets")
    library.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # where somebody else was the first to import it
    return library


def import_tensorflow_datasets() -> Any:
    """TensorFlow Datasets, and TensorFlow without its start-up lines.

    Raises:
        DataError: It is not installed.
    """
    with _extra("tfds", "data sets of TensorFlow need the library tensorflow-datasets"):
        library = importlib.import_module("tensorflow_datasets")
    import_keras()
    return library


def import_av() -> Any:
    """PyAV, which decodes videos, without what FFmpeg logs.

    Raises:
        DataError: It is not installed.
    """
    with _extra("video", "videos need PyAV"):
        av = importlib.import_module("av")
    importlib.import_module("av.logging").set_level(None)
    return av


@contextlib.contextmanager
def _extra(extra: str, needs: str) -> Iterator[None]:
    """Says which extra to install where the import in its block fails."""
    try:
        yield
    except (ModuleNotFoundError, BackboneError) as error:
        missing = f" ({error.name})" if isinstance(error, ModuleNotFoundError) else ""
        raise DataError(f'{needs}, which is not all installed{missing}. Run: pip install "onepass[{extra}]".') from None


def import_openvino() -> ModuleType:
    """OpenVINO without its usage statistics."""
    return _without_telemetry("openvino")


def import_nncf() -> ModuleType:
    """NNCF without its usage statistics and without what it logs.

    Raises:
        BackboneError: It is not installed.
    """
    import_openvino()
    logger_class = logging.getLoggerClass()
    try:
        return _without_telemetry("nncf")
    except ModuleNotFoundError as error:
        if error.name != "nncf":
            raise
        raise BackboneError(
            'int8 needs NNCF, which is not installed. Run: pip install "onepass[int8]". '
            f"Or use {opt.precision('float32')} or bfloat16."
        ) from None
    finally:
        logging.setLoggerClass(logger_class)  # NNCF puts its own in place for the whole process
        logging.getLogger("nncf").setLevel(logging.ERROR)


def _without_telemetry(name: str) -> ModuleType:
    """Imports a module of OpenVINO's family with `openvino_telemetry` hidden for the time of the import.

    `import openvino` reports every import to an analytics server, NNCF every quantisation; both leave
    that out if their telemetry package cannot be imported.
    """
    if loaded := sys.modules.get(name):
        return loaded
    hidden = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(name)
    finally:
        if hidden is None:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = hidden


@contextlib.contextmanager
def quiet_stderr() -> Iterator[TextIO]:
    """Holds back what native code writes to stderr, and shows it only if the block fails.

    Yields:
        The real stderr, for what the user should see meanwhile.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held, os.fdopen(os.dup(2), "w", buffering=1) as real:
        os.dup2(held.fileno(), 2)
        try:
            yield real
        except UserError:
            raise
        except Exception:
            sys.stderr.flush()
            held.seek(0)
            real.buffer.write(held.read())
            raise
        finally:
            sys.stderr.flush()
            real.flush()
            os.dup2(real.fileno(), 2)
