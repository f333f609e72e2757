"""What runs a backbone: OpenVINO on CPUs, TensorFlow on GPUs and for checking."""

import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from onepass.extract.frameworks import import_keras, import_openvino
from onepass.features.errors import BackboneError, OptionError, opt

Key = TypeVar("Key", bound=Hashable)

ENGINES = ("auto", "openvino", "tensorflow")
PRECISIONS = ("auto", "float32", "bfloat16", "int8")
_CAPABILITY = {"float32": "FP32", "bfloat16": "BF16", "int8": "INT8"}
"""What OpenVINO calls a processor that computes in each precision."""


class Engine(Protocol):
    """Turns a stream of images into a stream of rows."""

    name: str

    def run(self, images: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, np.ndarray]]:
        """Rows of (s, s, 3) images, uint8 or float32, as (d,) float32, each with its image's key, in any order."""
        ...


class OpenVINOEngine:
    """One image per request, as many requests at once as the processor likes.

    The graph has the fixed shape (1, s, s, 3), so no row can depend on its neighbours, and nothing is
    padded. On CPUs this is as fast as any batch: the parallel requests share the cached weights.

    Args:
        graph: OpenVINO `.xml` with its `.bin` beside it; RGB pixels in, rows out.
        image_size: s, pixels.
        precision: float32, bfloat16 for all but the first two convolutions, or int8 for a quantised graph.
        change: What is done to the `openvino.Model` before it is compiled.

    Raises:
        BackboneError: The graph cannot be read, or this processor does not know the precision.
    """

    name = "openvino"

    def __init__(
        self, graph: Path, *, image_size: int, precision: str, change: Callable[[Any], Any] | None = None
    ) -> None:
        ov = import_openvino()
        core = ov.Core()
        # What a quantised graph leaves in float32 stays there, so that its rows are the same everywhere.
        short = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}[precision]
        try:
            model = core.read_model(graph)
            model.reshape([1, image_size, image_size, 3])
            model = change(model) if change else model
            options = {"INFERENCE_PRECISION_HINT": short, "PERFORMANCE_HINT": "THROUGHPUT"}
            self._compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise BackboneError(
                f"OpenVINO cannot run {graph} in {precision}: {str(error).strip().splitlines()[-1]} "
                f"Delete the folder {graph.parent} and try again, or use {opt.engine('tensorflow')}."
            ) from None
        used = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        # OpenVINO may accept what the processor does not know, and emulate it.
        if used != short or _CAPABILITY[precision] not in _capabilities(core):
            raise BackboneError(
                f"this processor cannot compute in {precision}. Extract, and train, with {opt.precision('float32')}.",
                precision=precision,
            )

    def run(self, images: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, np.ndarray]]:
        # Requests waited for in turn, not an AsyncInferQueue with a callback: its destructor can wait,
        # holding Python's lock, for a callback thread that needs the lock.
        count = 2 * self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        idle = [self._compiled.create_infer_request() for _ in range(count)]
        busy: deque[tuple[Key, Any]] = deque()
        try:
            for key, image in images:
                if not idle:
                    yield self._finished(busy, idle)
                request = idle.pop()
                request.start_async({0: image[None]})
                busy.append((key, request))
            while busy:
                yield self._finished(busy, idle)
        finally:
            for _, request in busy:
                request.wait()

    @staticmethod
    def _finished(busy: deque[tuple[Key, Any]], idle: list[Any]) -> tuple[Key, np.ndarray]:
        key, request = busy.popleft()
        request.wait()
        row = request.get_output_tensor(0).data[0].copy()
        idle.append(request)
        return key, row


class TensorFlowEngine:
    """The Keras model itself, compiled by TensorFlow, in padded batches of one fixed shape.

    Args:
        model: Keras model, (b, s, s, 3) uint8 or float32 -> (b, d) float32, built in the strategy's scope.
        batch_size: b, images per step over all devices; rounded up to a multiple of their number.
        strategy: From `choose_strategy`; each of its devices computes an equal part of a batch.
    """

    name = "tensorflow"

    def __init__(self, model: Any, *, batch_size: int, strategy: Any) -> None:
        import_keras()
        tf = sys.modules["tensorflow"]
        devices = strategy.num_replicas_in_sync
        part = -(-batch_size // devices)
        self.batch_size = part * devices
        forward = tf.function(
            lambda images: model(images, training=False),
            jit_compile=bool(tf.config.list_physical_devices("GPU")),
            autograph=False,
        )

        def forward_part(batch: Any) -> Any:
            first = part * tf.distribute.get_replica_context().replica_id_in_sync_group
            return forward(batch[first : first + part])

        def step(batch: Any) -> Any:
            rows = strategy.run(forward_part, args=(batch,))
            return tf.concat(strategy.experimental_local_results(rows), axis=0)

        signature = tf.TensorSpec((self.batch_size, *model.input_shape[1:]), model.input.dtype)
        self._step = tf.function(step, input_signature=[signature], autograph=False)
        self._buffer = np.zeros(signature.shape, model.input.dtype)

    def run(self, images: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, np.ndarray]]:
        keys: list[Key] = []
        for key, image in images:
            self._buffer[len(keys)] = image
            keys.append(key)
            if len(keys) == len(self._buffer):
                yield from zip(keys, self._step(self._buffer).numpy(), strict=False)
                keys = []
        if keys:
            yield from zip(keys, self._step(self._buffer).numpy(), strict=False)


def choose_strategy(devices: Sequence[str] | None = None) -> Any:
    """TensorFlow's strategy for a backbone: a copy on each GPU, or on the one device there is.

    Args:
        devices: Names such as "GPU:0"; by default all GPUs.
    """
    import_keras()
    tf = sys.modules["tensorflow"]
    if devices is None:
        devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()


def choose_engine(engine: str, precision: str = "auto") -> str:
    """Resolves "auto": TensorFlow where it finds a GPU, else OpenVINO, which alone computes in int8.

    Raises:
        OptionError: int8 is asked of TensorFlow.
    """
    if precision == "int8":
        if engine == "tensorflow":
            raise OptionError(
                f"{opt.precision('int8')} does not go with {opt.engine('tensorflow')}; use openvino, or another "
                "precision."
            )
        return "openvino"
    if engine != "auto":
        return engine
    # Asking TensorFlow takes seconds, so it is asked only where the GPU driver left its device file.
    if Path("/dev/nvidiactl").exists():
        import_keras()
        if sys.modules["tensorflow"].config.list_physical_devices("GPU"):
            return "tensorflow"
    return "openvino"


def choose_precision(precision: str, engine: str) -> str:
    """Resolves "auto": bfloat16 where the processor computes in it natively, else float32."""
    if precision != "auto":
        return precision
    if engine == "openvino":
        native = "BF16" in _capabilities(import_openvino().Core())
    else:
        import_keras()
        tf = sys.modules["tensorflow"]
        native = any(
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (8, 0)
            for gpu in tf.config.list_physical_devices("GPU")
        )
    return "bfloat16" if native else "float32"


def _capabilities(core: Any) -> list[str]:
    return list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
