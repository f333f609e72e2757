"""A backbone ready to use: its spec, and its engine once a row is asked for."""

import hashlib
import io
import os
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypedDict, TypeVar

import numpy as np
from PIL import Image

from onepass.extract.backbones import openvino_cache as compiled
from onepass.extract.backbones.build import POOLINGS, BuiltBackbone, build_backbone, default_image_size
from onepass.extract.backbones.catalogue import BUNDLED, BackboneName
from onepass.extract.backbones.efficientnet_lite import PACKAGE
from onepass.extract.backbones.engines import (
    ENGINES,
    PRECISIONS,
    Engine,
    OpenVINOEngine,
    TensorFlowEngine,
    choose_engine,
    choose_precision,
    choose_strategy,
)
from onepass.extract.backbones.golden import environment, golden_images
from onepass.extract.backbones.openvino_cache import CompiledBackbone, Quantisation, cache_folder
from onepass.extract.backbones.weights import file_hash
from onepass.extract.pixels.decode import (
    RESIZES,
    decode_image,
    decode_rule,
    decode_views,
    pixel_dtype,
    read_bytes,
    require_views,
)
from onepass.extract.pixels.views import Augmentation
from onepass.features.errors import BackboneError, OptionError, UnreadableImageError, opt
from onepass.features.spec import Spec, require_equal_specs

Key = TypeVar("Key", bound=Hashable)

BATCH_SIZE = 32
"""Rows committed together; also images per step of the TensorFlow engine."""


@dataclass(frozen=True)
class Source:
    """Where a backbone comes from, so that it can be found again.

    Attributes:
        name: Catalogue name, or path of a `.keras` file; with @ and a layer if the network is cut there.
        weights: "imagenet" or path of a weights file.
    """

    name: str
    weights: str

    @classmethod
    def of(cls, provenance: dict[str, Any], weights: str | None = None) -> Self:
        """Where the backbone of a feature file or head came from, or where its weights lie now."""
        name = str(provenance.get("backbone"))
        if weights and weights.endswith(".keras"):
            return cls(str(BackboneName(weights, BackboneName.parse(name).layer)), "imagenet")
        return cls(name, weights or str(provenance.get("weights")))


class Backbone:
    """A frozen network with its preprocessing: images in, rows out.

    Args:
        spec: What its rows are computed with.
        source: Where it comes from.
        make_engine: Called once, when the first row is asked for.
        engine_name: openvino or tensorflow.
        converted: The graph that OpenVINO runs, on disk.
    """

    def __init__(
        self,
        spec: Spec,
        source: Source,
        make_engine: Callable[[], Engine],
        *,
        engine_name: str,
        converted: CompiledBackbone | None = None,
    ) -> None:
        self.spec = spec
        self.source = source
        self.engine_name = engine_name
        self.converted = converted
        self._make_engine = make_engine
        self._golden: np.ndarray | None = None

    @cached_property
    def engine(self) -> Engine:
        return self._make_engine()

    @property
    def quantisation(self) -> Quantisation | None:
        """How the graph was quantised; None unless it is int8 and calibrated."""
        return self.converted.quantisation if self.converted else None

    def pixels(self, data: bytes) -> np.ndarray:
        """The bytes of an image file as this backbone sees them; see `read_image`.

        Raises:
            UnreadableImageError: With the reason.
        """
        return decode_image(data, image_size=self.spec.image_size, resize=self.spec.resize)

    def rows(self, images: np.ndarray) -> np.ndarray:
        """Rows of images already decoded and resized.

        Args:
            images: (b, s, s, 3) RGB, s as in the spec; uint8, or float32 in 0..255 where resize is keras.

        Returns:
            (b, d) float32.
        """
        size, dtype = self.spec.image_size, pixel_dtype(self.spec.resize)
        if images.dtype != dtype or images.shape[1:] != (size, size, 3):
            raise OptionError(
                f"got images of shape {images.shape}, {images.dtype}; needed: (b, {size}, {size}, 3), {dtype}."
            )
        rows = np.empty((len(images), self.spec.width), np.float32)
        for position, row in self.engine.run(enumerate(images)):
            rows[position] = row
        return rows

    def rows_of(self, images: Sequence[str | Path | np.ndarray], *, workers: int | None = None) -> np.ndarray:
        """Rows of image files, or of images that were decoded elsewhere, in their order.

        Args:
            images: Paths, or (h, w, 3) uint8 RGB arrays of any size, which are resized as files are.
            workers: Decoding threads.

        Returns:
            (n, d) float32.

        Raises:
            UnreadableImageError: An image cannot be read; with its path, or its place if it is an array.
        """

        def refuse(position: int, reason: str) -> None:
            image = images[position]
            name = f"image {position}" if isinstance(image, np.ndarray) else image
            raise UnreadableImageError(f"{name} cannot be read: {reason}")

        rows = np.empty((len(images), self.spec.width), np.float32)
        files = (_as_png(image, i) if isinstance(image, np.ndarray) else Path(image) for i, image in enumerate(images))
        for position, row in self.stream(enumerate(files), on_skip=refuse, workers=workers):
            rows[position] = row[0]
        return rows

    def golden_rows(self) -> np.ndarray:
        """Rows of the built-in test images through the whole way, decoding included, (g, d) float32."""
        if self._golden is None:
            self._golden = self.rows(np.stack([self.pixels(data) for data in golden_images()]))
        return self._golden

    @property
    def environment(self) -> dict[str, Any]:
        """Engine, processor and versions: what rows can depend on beside the spec."""
        return environment(self.engine_name)

    def stream(
        self,
        files: Iterable[tuple[Key, Path | bytes]],
        *,
        on_skip: Callable[[Key, str], None],
        workers: int | None = None,
        verify: bool = False,
        views: Sequence[int] = (0,),
        augmentation: Augmentation | str | None = None,
    ) -> Generator[tuple[Key, np.ndarray], None, None]:
        """Rows of image files; decoding runs in threads beside the engine, memory stays bounded.

        Args:
            files: Keys with paths, or with what stands in a file.
            on_skip: Called with key and reason for every file that cannot be read.
            workers: Decoding threads; by default one per processor.
            verify: Keys are SHA-256 digests, and a file whose bytes have another is skipped.
            views: Numbers of the views to compute; 0 is the plain image.
            augmentation: What the other views are drawn from, or a text for `Augmentation.parse`.

        Yields:
            (key, (len(views), d) float32), not necessarily in order.
        """

        require_views(self.spec.resize, views)
        threads = os.cpu_count() or 1 if workers is None else workers
        if threads < 1:
            raise OptionError(f"{opt.workers} is {workers}; needed: at least 1.")
        recipe = Augmentation.parse(augmentation) if isinstance(augmentation, str) else augmentation

        def decode(key: Key, file: Path | bytes) -> list[np.ndarray]:
            data = file if isinstance(file, bytes) else read_bytes(file)
            if verify and hashlib.sha256(data).digest() != key:
                raise UnreadableImageError(
                    f"no longer the file whose content was recorded; extract again with {opt.rehash}"
                )
            spec = self.spec
            return decode_views(data, image_size=spec.image_size, resize=spec.resize, views=views, augmentation=recipe)

        def readable() -> Iterator[tuple[tuple[Key, int], np.ndarray]]:
            for key, future in _ahead(files, decode, threads, ahead=threads + (3 * threads + 8) // len(views)):
                try:
                    pixels = future.result()
                except UnreadableImageError as error:
                    on_skip(key, str(error))
                    continue
                yield from (((key, number), view) for number, view in enumerate(pixels))

        # Views of one image follow each other; an engine may still answer in another order.
        unfinished: dict[Key, dict[int, np.ndarray]] = defaultdict(dict)
        for (key, number), row in self.engine.run(readable()):
            unfinished[key][number] = row
            if len(unfinished[key]) == len(views):
                rows = unfinished.pop(key)
                yield key, np.stack([rows[i] for i in range(len(views))])


def _as_png(image: np.ndarray, position: int) -> bytes:
    """An image as the file that it could have come from, so that it goes the way of all files."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise OptionError(f"image {position} is {image.shape}, {image.dtype}; needed: (h, w, 3) uint8 RGB, or a path.")
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG", compress_level=1)
    return data.getvalue()


def _ahead(
    files: Iterable[tuple[Key, Path | bytes]],
    decode: Callable[[Key, Path | bytes], list[np.ndarray]],
    workers: int,
    *,
    ahead: int,
) -> Iterator[tuple[Key, Future[list[np.ndarray]]]]:
    """Keeps at most `ahead` decodings under way or waiting, in order."""
    waiting: deque[tuple[Key, Future[list[np.ndarray]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for key, path in files:
            waiting.append((key, pool.submit(decode, key, path)))
            if len(waiting) > ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        # Without waiting: if a garbage collection ends this generator, it may do so in a thread that is
        # just starting and holds the lock which joining another thread needs.
        pool.shutdown(wait=False, cancel_futures=True)


class BackboneSettings(TypedDict, total=False):
    """Settings of `load_backbone`, which has their meaning and their defaults."""

    weights: str | Path
    image_size: int | None
    resize: str
    pooling: str
    precision: str
    engine: str
    batch_size: int


def load_backbone(
    name: str = BUNDLED,
    *,
    weights: str | Path = "imagenet",
    image_size: int | None = None,
    resize: str = "squash",
    pooling: str = "avg",
    precision: str = "auto",
    engine: str = "auto",
    batch_size: int = BATCH_SIZE,
) -> Backbone:
    """Makes a backbone ready, from the cache of converted ones where it can.

    Args:
        name: Catalogue name (`onepass backbones` lists them), or a path that ends in `.keras`. With @ and
            a layer's name behind it, rows are what that layer gives: `resnet50@conv4_block6_out`.
        weights: "imagenet", or a `.weights.h5` or `.h5` file.
        image_size: Input side, pixels; by default the network's own.
        resize: squash, crop, pad, or keras (the pixels of `image_dataset_from_directory`).
        pooling: avg, max or flatten.
        precision: float32, bfloat16, int8, or auto: bfloat16 where the processor has it natively. An
            int8 backbone gives rows once `calibrated` has seen the user's images.
        engine: openvino, tensorflow, or auto: tensorflow where there is a GPU.
        batch_size: Images per step of the TensorFlow engine.

    Raises:
        OptionError: A value is unknown or does not go with another one.
        BackboneError: The backbone cannot be built or run here.
        WeightsError: Its weights cannot be had.
    """
    check_choices(resize=(resize, RESIZES), pooling=(pooling, POOLINGS))
    check_choices(engine=(engine, ENGINES), precision=(precision, PRECISIONS))
    if batch_size < 1:
        raise OptionError(f"{opt.batch_size} is {batch_size}; needed: at least 1.")
    parsed = BackboneName.parse(name)
    own = parsed.own
    if own and weights != "imagenet":
        raise OptionError(f"{opt.weights} does not go with a .keras file, which brings its own weights.")
    network = str(Path(parsed.network).resolve()) if own else parsed.network
    source = Source(str(BackboneName(network, parsed.layer)), _resolved(weights))
    size = _image_size(parsed, image_size)
    pixels = pixel_dtype(resize)
    engine = choose_engine(engine, precision)
    precision = choose_precision(precision, engine)

    def spec(facts: BuiltBackbone | CompiledBackbone) -> Spec:
        return Spec(
            backbone=parsed.label,
            weights=weights_label(source),
            weights_hash=facts.weights_hash,
            image_size=size,
            resize=resize,
            decode=decode_rule(resize),
            pooling=pooling,
            precision=precision,
            width=facts.width,
        )

    if engine == "openvino":
        converted = _converted(source, size, pooling, pixels)
        return on_openvino(spec(converted), source, converted)
    if own and precision == "bfloat16":
        raise OptionError(f"a .keras file keeps its own precision in TensorFlow; use {opt.precision('float32')}.")
    strategy = choose_strategy()
    built = build_backbone(
        source.name,
        weights=source.weights,
        image_size=size,
        pooling=pooling,
        precision=precision,
        pixels=pixels,
        strategy=strategy,
    )

    def make() -> Engine:
        return TensorFlowEngine(built.model, batch_size=batch_size, strategy=strategy)

    return Backbone(spec(built), source, make, engine_name=engine)


def load_backbone_for(spec: Spec, *, source: Source, engine: str = "auto", needed_by: str) -> Backbone:
    """The backbone that computes rows of a given spec, for images that come later.

    Args:
        spec: What the rows must be.
        source: Where the backbone came from at the time of extraction.
        engine: openvino, tensorflow or auto.
        needed_by: Who needs it, for messages: a head's file name.

    Raises:
        SpecMismatchError: What the source gives now is not what it gave then.
        BackboneError: The backbone cannot be built or run here, or its int8 graph is not in the cache.
    """
    require_decode_rule(spec, needed_by)
    if choose_engine(engine, spec.precision) == "openvino":
        if found := find_converted(spec):
            return on_openvino(spec, source, found)
        if spec.calibration:
            raise BackboneError(missing_graph(spec, needed_by))
    backbone = load_backbone(
        source.name,
        weights=source.weights,
        image_size=spec.image_size,
        resize=spec.resize,
        pooling=spec.pooling,
        precision=spec.precision,
        engine=engine,
    )
    require_same_backbone(backbone.spec, spec, needed_by)
    return backbone


def require_decode_rule(spec: Spec, needed_by: str) -> None:
    """Refuses rows of images that were decoded by a rule of another version.

    Raises:
        BackboneError: With both rules.
    """
    rule = decode_rule(spec.resize)
    if spec.decode != rule:
        raise BackboneError(
            f"{needed_by} needs images decoded by the rule {spec.decode}; this onepass decodes by {rule}. "
            "Extract and train again, or install the onepass that wrote it."
        )


def require_same_backbone(found: Spec, needed: Spec, needed_by: str) -> None:
    """Refuses a backbone whose rows are not those of a spec.

    Raises:
        SpecMismatchError: With both side by side.
    """
    require_equal_specs(
        found,
        needed,
        left_name="the backbone found here",
        right_name=needed_by,
        remedy=f"Give the weights it was trained with by {opt.weights}.",
    )


def weights_label(source: Source) -> str:
    """How a spec calls the weights of a source: own, imagenet, or the name of their file."""
    if BackboneName.parse(source.name).own:
        return "own"
    return "imagenet" if source.weights == "imagenet" else Path(source.weights).name


def on_openvino(spec: Spec, source: Source, converted: CompiledBackbone) -> Backbone:
    """The backbone of a converted graph; an int8 one only gives rows if the graph is calibrated."""

    def make() -> Engine:
        if spec.precision == "int8" and not spec.calibration:
            raise OptionError(
                f"{spec.backbone} in int8 is not calibrated yet; needed: "
                "calibrated(backbone, files) with images of the kind it is for."
            )
        return OpenVINOEngine(converted.graph, image_size=spec.image_size, precision=spec.precision)

    return Backbone(spec, source, make, engine_name="openvino", converted=converted)


def find_converted(spec: Spec) -> CompiledBackbone | None:
    """The graph in the cache that computes rows of this spec."""
    return compiled.find_by_facts(
        spec.backbone,
        spec.weights_hash,
        spec.image_size,
        spec.pooling,
        pixels=pixel_dtype(spec.resize),
        calibration=spec.calibration,
    )


def missing_graph(spec: Spec, needed_by: str) -> str:
    """What to tell a user whose cache does not hold the quantised graph that a spec names."""
    return (
        f"{needed_by} needs {spec.backbone} in int8 as calibrated then ({spec.calibration}), and {cache_folder()} does "
        f"not hold it. Copy the folder *-int8-{spec.calibration} there from the cache of the machine that extracted "
        "($ONEPASS_CACHE, or ~/.cache/onepass), or extract again to another file and train on that."
    )


def _converted(source: Source, size: int, pooling: str, pixels: str) -> CompiledBackbone:
    label = BackboneName.parse(source.name).label
    key = compiled.cache_key(label, _weights_source(source), size, pooling, pixels)
    if found := compiled.find_by_key(key):
        return found
    built = build_backbone(source.name, weights=source.weights, image_size=size, pooling=pooling, pixels=pixels)
    facts = CompiledBackbone(Path(), label, built.weights_hash, size, pooling, built.width, pixels)
    return compiled.store_converted(key, built.model, facts)


def _weights_source(source: Source) -> str:
    name = BackboneName.parse(source.name)
    if name.own:
        return file_hash(Path(name.network))
    if source.weights != "imagenet":
        return file_hash(Path(source.weights))
    return f"{PACKAGE} {version(PACKAGE)}" if name.network == BUNDLED else "imagenet"


def _image_size(name: BackboneName, image_size: int | None) -> int:
    if image_size is None:
        return default_image_size(name)
    if not 8 <= image_size <= 4096:
        raise OptionError(f"{opt.image_size} is {image_size}; needed: 8 to 4096 pixels.")
    return image_size


def _resolved(weights: str | Path) -> str:
    return "imagenet" if weights == "imagenet" else str(Path(weights).resolve())


def check_choices(**options: tuple[str, tuple[str, ...]]) -> None:
    """Refuses a value that is not among its choices.

    Raises:
        OptionError: Naming the first.
    """
    for name, (value, choices) in options.items():
        if value not in choices:
            raise OptionError(f"--{name} is {value!r}; needed: one of {', '.join(choices)}.")
