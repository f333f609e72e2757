"""The command line: parse, call the library once, print one result."""

import contextlib
import functools
import inspect
import io
import json
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer import Argument, Option
from typer.core import TyperCommand, TyperGroup

_SETTINGS: dict[str, Any] = {"rich_markup_mode": "rich", "pretty_exceptions_enable": False}
_EXIT_CODES = {"whole": 0, "damaged": 3, "incomplete": 4, "drifted": 5, "unproven": 6}
_FLAGS = {"takes_bytes": "bytes", "candidates": "try", "images_in": "images", "target_column": "target"}
"""Parameters of the library that are spelled otherwise here."""

_SHOWN = 20
"""Skipped images that are named."""


class _OneStyle:
    """Shows Typer's own errors of usage as all others: one message on stderr, exit code 2."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})  # type: ignore[misc]
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            if type(error).__name__ != "NoArgsIsHelpError":  # which has printed the help
                from onepass.features.names import printable

                typer.echo(f"error: {printable(_usage(error))}", err=True)
            code = 2
        sys.exit(code or 0)


def _usage(error: Any) -> str:
    """An error of Typer's in our words."""
    text, parameter = error.format_message().strip().rstrip("."), getattr(error, "param", None)
    if text.startswith("Invalid value") and parameter:
        number = {"integer": "a whole number", "number": "a number", "float": "a number"}
        needed = next((words for name, words in number.items() if name in text), text.partition(": ")[2])
        text = f"{parameter.opts[0]} needs {needed}"
    elif text.startswith("Missing argument") and parameter:
        text = f"{parameter.metavar or parameter.name.upper()} is missing"
    context = error.ctx or None
    help_on = f" `{context.command_path} --help` says what there is." if context else ""
    return f"{text[:1].lower() if text[1:2].islower() else text[:1]}{text[1:]}{'' if text[-1] == '?' else '.'}{help_on}"


class _Command(_OneStyle, TyperCommand):
    pass


class _Group(_OneStyle, TyperGroup):
    pass


app = typer.Typer(
    cls=_Group,
    help="One pass of a frozen, pretrained backbone over your images; then heads in seconds.",
    no_args_is_help=True,
    **_SETTINGS,
)
_ALONE = {name: typer.Typer(**_SETTINGS) for name in ("extract", "train-head", "compare-heads", "fine-tune")}
"""Commands that are programs of their own as well."""

_search, _nets, _single, _optimization, _table, _running = (
    functools.partial(Option, rich_help_panel=panel)
    for panel in (
        "Search",
        "Keras heads: mlp, linear",
        "Settings of single heads",
        "Optimization",
        "Images and labels from a table",
        "Where and how it runs",
    )
)

# Options that several commands share. None stands for the library's default everywhere.
Json = Annotated[bool, Option("--json", help="Print one JSON object on stdout.")]
Images = Annotated[
    list[Path], Argument(help="Class folders, optionally below train, val and test folders; or a table of images.")
]
Features = Annotated[Path | None, Argument(help="Feature file; by default the one in this folder.")]
HeadFile = Annotated[
    Path, Argument(help="Head file, fine-tuned or exported model, or certificate of one.", metavar="HEAD")
]
Preprocess = Annotated[
    Path | None, Option(help="JSON file: how a network that does not say so was fed.", metavar="FILE")
]
Weights = Annotated[
    str | None, _running(help="imagenet (default), or a .weights.h5 or legacy .h5 file.", metavar="FILE")
]
Moved = Annotated[
    str | None, _running("--weights", help="Where the weights or the .keras file are now.", metavar="FILE")
]
Data = Annotated[
    list[Path] | None, _running(help="Where the images are now, if they were moved. May be repeated.", metavar="FOLDER")
]
OtherFeatures = Annotated[
    Path | None, _running("--features", help="Feature file of the training, if it was moved.", metavar="FILE")
]
Engine = Annotated[str | None, _running(help="openvino, tensorflow, or auto (default): tensorflow on a GPU.")]
Precision = Annotated[str | None, Option(help="float32, bfloat16, int8, or auto: bfloat16 where native.")]
Workers = Annotated[int | None, _running(help="Decoding threads; one per processor by default.")]
Augment = Annotated[
    str | None,
    Option(help="Recipe of the views: classic, or a list such as flip,rotate=20,shift=0.2,zoom=0.2,brightness=0.1."),
]
Groups = Annotated[
    Path | None, Option(help="CSV file, path,group: a group (a patient) shares a split.", metavar="FILE")
]
GroupPattern = Annotated[str | None, Option(help="Or a pattern with the group in parentheses.", metavar="REGEX")]
TableImages = Annotated[str | None, _table("--images", help="Where the images of the table lie.", metavar="FOLDER")]
PathColumn = Annotated[
    str | None, _table(help="Column that names the images, or a pattern: {id}.jpg", metavar="COLUMN")
]
LabelColumn = Annotated[str | None, _table(help="Column of classes, or 0/1 columns with commas.", metavar="COLUMN")]
LabelSeparator = Annotated[str | None, _table(help="What stands between several labels of an image.")]
TargetColumn = Annotated[str | None, _table("--target", help="Column of a number to predict.", metavar="COLUMN")]
SplitColumn = Annotated[str | None, _table(help="Column of train, val, test; or COLUMN=TEST.", metavar="COLUMN")]
GroupColumn = Annotated[str | None, _table(help="Column of what shares a split: a patient.", metavar="COLUMN")]
WeightColumn = Annotated[str | None, _table(help="Column of how much each image counts.", metavar="COLUMN")]
AcceptDrift = Annotated[
    bool | None, Option("--accept-drift", help="Continue although this machine computes different rows; recorded.")
]
_METRICS = (
    "accuracy (default), balanced, macro-f1, log-loss, auroc; labels: map (default), micro-f1, macro-f1, subset, "
    "log-loss; numbers: mae (default), rmse, r2."
)
_HEADS = (
    "logreg (default), svm, rbf-svm, ridge, lda, knn, centroid, mlp, linear, text, text-logreg; labels: logreg "
    "(default), svm, ridge, kernel-ridge, knn, mlp, linear; numbers: ridge (default), kernel-ridge, knn, mlp, linear."
)
Metric = Annotated[str | None, Option(help=_METRICS)]
Head = Annotated[str | None, Option(help=_HEADS)]
Tune = Annotated[str | None, _search(help="Search for the best settings: none, fast (default) or thorough.")]
TimeLimit = Annotated[float | None, _search(help="Seconds after which the search ends with the best so far.")]
ClassWeight = Annotated[str | None, Option(help="balanced, or weights by class: cats=2,dogs=1.", metavar="WEIGHTS")]
Memory = Annotated[float | None, Option(help="GB that may be used; mlp and linear then read the file in pieces.")]
Prompts = Annotated[list[str] | None, Option(help="text, text-logreg: such as a photo of a {}; repeatable; or a file.")]
Plot = Annotated[Path | None, Option(help="Also draw the result: .png, .svg or .pdf.", metavar="FILE")]
Csv = Annotated[Path | None, Option(help="Also write the result to this CSV file.", metavar="FILE")]


def _print_version(asked: bool) -> None:
    if asked:
        from onepass import versions

        print(versions())
        raise typer.Exit


Version = Annotated[
    bool, Option("--version", help="Print all versions that matter.", is_eager=True, callback=_print_version)
]
Verbose = Annotated[bool, Option("--verbose", "-v", help="Print decisions, phases and how long they took.")]


def _command(name: str, epilog: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command, under `onepass` and where it is a program of its own."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        guarded = _guarded(function)
        app.command(name, cls=_Command, epilog=epilog)(guarded)
        if name in _ALONE:
            _ALONE[name].command(cls=_Command, epilog=epilog)(guarded)
        return guarded

    return register


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turns what a user can put right into one message on stderr: exit code 1, or 2 for wrong usage.

    Adds the options that every command has.
    """

    @functools.wraps(command)
    def run(*args: Any, verbose: bool = False, version: bool = False, **kwargs: Any) -> None:  # noqa: ARG001
        from onepass.extract import decisions_shown
        from onepass.features import OnepassWarning, OptionError, UserError
        from onepass.features.names import printable

        with warnings.catch_warnings(), decisions_shown() if verbose else contextlib.nullcontext():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", OnepassWarning)
                warnings.showwarning = lambda message, *_, **__: typer.echo(printable(str(message)), err=True)
            try:
                command(*args, **kwargs)
            except UserError as error:
                if verbose:
                    traceback.print_exception(error)
                typer.echo(f"error: {error.spelled(_flag)}", err=True)
                raise typer.Exit(2 if isinstance(error, OptionError) else 1) from None
            except KeyboardInterrupt:
                typer.echo("interrupted; what was finished is kept. Run the same command again to continue.", err=True)
                raise typer.Exit(130) from None

    every = {"verbose": Verbose, "version": Version}
    added = [Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=kind) for name, kind in every.items()]
    own = inspect.signature(command)
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, **every}
    return run


@app.callback()
def _every_command(version: Version = False) -> None:
    pass


@_command("extract", "Example: extract --backbone resnet50 photos/")
def extract_command(
    data: Images,
    backbone: Annotated[
        str | None,
        Option(help="Name (see `onepass backbones`), or .keras or .onnx file; @LAYER cuts it there. [bundled one]"),
    ] = None,
    weights: Weights = None,
    image_size: Annotated[int | None, Option(help="Side of the input in pixels; the network's by default.")] = None,
    resize: Annotated[
        str | None, Option(help="squash, crop, pad, keras: as Keras's data sets, or native: as trained.")
    ] = None,
    preprocess: Preprocess = None,
    depth: Annotated[
        str | None, Option(help="Bits in use of 16-bit images, such as 12; or data: what these images use.")
    ] = None,
    pooling: Annotated[
        str | None, Option(help="avg, max or flatten; of tokens cls, mean, cls+mean, last4; several with commas.")
    ] = None,
    precision: Precision = None,
    engine: Engine = None,
    views: Annotated[int | None, Option(help="Views per image: the plain image and seeded variants.")] = None,
    augment: Augment = None,
    images: TableImages = None,
    path: PathColumn = None,
    label: LabelColumn = None,
    label_separator: LabelSeparator = None,
    target: TargetColumn = None,
    split: SplitColumn = None,
    group: GroupColumn = None,
    weight: WeightColumn = None,
    every: Annotated[str | None, Option(help="Time between two frames, for folders of videos, such as 1s.")] = None,
    unlabelled: Annotated[bool | None, Option("--unlabelled", help="All images; labels come later, or never.")] = None,
    groups: Groups = None,
    group_pattern: GroupPattern = None,
    row_dtype: Annotated[str | None, Option(help="float32 (default) or float16: half the disk, 3 digits.")] = None,
    base: Annotated[list[Path] | None, Option(help="File to take rows from; repeatable.", metavar="FILE")] = None,
    rehash: Annotated[
        bool | None, Option("--rehash", help="Read every image to see whether it changed, not only size and time.")
    ] = None,
    accept_drift: AcceptDrift = None,
    batch_size: Annotated[int | None, Option(help="Rows committed together; images per TensorFlow step.")] = None,
    workers: Workers = None,
    out: Annotated[Path | None, Option(help="Feature file; DATA.BACKBONE.h5 in this folder by default.")] = None,
    plan: Annotated[bool, Option("--plan", help="Only try 64 images and estimate the cost of the pass.")] = False,
    as_json: Json = False,
) -> None:
    """Run a backbone over folders of images once and keep the rows.

    The same command again, after a crash or with new images, computes only what is missing.
    """
    options = _given(locals(), "plan")
    if plan:
        from onepass import plan as estimate

        _show(estimate(**options), as_json)
        return
    from onepass import run_extraction

    with _progress("extracting") as report:
        done = run_extraction(**options, progress=report)
    _show(done, as_json)
    if done.all_undone:
        raise typer.Exit(1)


@_command("choose", "Example: onepass choose photos/ --try efficientnet_lite0,resnet50=resnet50.weights.h5")
def choose_command(
    data: Images,
    candidates: Annotated[str | None, Option("--try", help="Names with commas; NAME=FILE says whose weights.")] = None,
    sample: Annotated[int | None, Option(help="Images to try (600 by default).")] = None,
    head: Annotated[str | None, Option(help="Head that is tuned on each (logreg by default).")] = None,
    metric: Metric = None,
    groups: Groups = None,
    group_pattern: GroupPattern = None,
    precision: Precision = None,
    engine: Engine = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Try backbones on a sample of the images, and say which to take and what the next one would cost."""
    options = _given(locals())
    from onepass import choose_backbone

    with _progress("trying") as report:
        done = choose_backbone(**options, progress=report, say=lambda line: typer.echo(line, err=True))
    _show(done, as_json)


@_command("train-head", "Example: train-head --head mlp --hidden 256,128")
def train_head_command(
    features: Features = None,
    head: Head = None,
    prompts: Prompts = None,
    class_weight: ClassWeight = None,
    max_images: Annotated[int | None, Option(help="Train on at most so many images.")] = None,
    memory: Memory = None,
    seed: Annotated[int | None, Option(help="Seed of folds, initial weights and the order of the rows.")] = None,
    out: Annotated[Path | None, Option(help="Head file; FEATURES.HEAD.head in this folder by default.")] = None,
    history: Annotated[Path | None, _nets(help="CSV file for loss and accuracy by epoch.", metavar="FILE")] = None,
    tune: Tune = None,
    time_limit: TimeLimit = None,
    C: Annotated[float | None, _single("--C", help="Inverse penalty of logreg, svm, rbf-svm, text-logreg.")] = None,  # noqa: N803
    gamma: Annotated[float | None, _single(help="rbf-svm: width of the kernel.")] = None,
    alpha: Annotated[float | None, _single(help="ridge: penalty.")] = None,
    shrinkage: Annotated[float | None, _single(help="lda: shrinkage of the covariance, up to 1.")] = None,
    shrink: Annotated[float | None, _single(help="centroid: standard errors that class means move inwards.")] = None,
    neighbours: Annotated[int | None, _single(help="knn: number of neighbours.")] = None,
    decay: Annotated[float | None, _single(help="knn: cosine over which a vote loses a factor e.")] = None,
    hidden: Annotated[str | None, _nets(help="Units of the hidden layers, such as 256,128; 0 for none (mlp).")] = None,
    activation: Annotated[str | None, _nets(help="Activation of the hidden layers, by Keras's name (mlp).")] = None,
    dropout: Annotated[float | None, _nets(help="Fraction of the units dropped in training (mlp).")] = None,
    output: Annotated[str | None, _nets(help="softmax, or sigmoid: one unit for two classes (mlp).")] = None,
    optimizer: Annotated[str | None, _nets(help="adam, adamw, sgd, rmsprop, nadam or lion.")] = None,
    lr: Annotated[float | None, _nets(help="Learning rate.")] = None,
    weight_decay: Annotated[float | None, _nets(help="Decay of the weights.")] = None,
    label_smoothing: Annotated[float | None, _nets(help="Share of each label spread over all classes.")] = None,
    epochs: Annotated[int | None, _nets(help="Most passes over the rows; with --tune none so many.")] = None,
    batch_size: Annotated[int | None, _nets(help="Rows per step.")] = None,
    patience: Annotated[int | None, _nets(help="Epochs without progress after which training stops.")] = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Train a head on cached rows and score it on images it has not seen.

    What is not given is tuned on folds of the training images.
    """
    options = _given(locals(), "plot") | _bytes(memory)
    _require_plot(plot)
    from onepass import train_head

    with _progress(f"training {head or 'the head'}"):
        done = train_head(**options)
    _show(done, as_json, plot=plot)


@_command("compare-heads", "Example: compare-heads --heads logreg,svm,mlp:512 --cv 5x2")
def compare_heads_command(
    features: Annotated[
        list[Path] | None, Argument(help="Feature files of the same images; by default the one in this folder.")
    ] = None,
    heads: Annotated[str | None, Option(help="all (default), or names with commas: logreg,svm,mlp:256x128.")] = None,
    cv: Annotated[str | None, Option(help="Folds x repeats outside the test part, such as 5x2.", metavar="FxR")] = None,
    split: Annotated[bool | None, Option("--split", help="Train on train, score on test: the default.")] = None,
    metric: Metric = None,
    seeds: Annotated[int | None, Option(help="Trainings per head with other folds and weights; averaged.")] = None,
    tune: Tune = None,
    time_limit: TimeLimit = None,
    memory: Memory = None,
    class_weight: ClassWeight = None,
    prompts: Prompts = None,
    learning_curve: Annotated[
        bool | None, Option("--learning-curve", help="Also train the best on fewer images, and forecast more.")
    ] = None,
    save_best: Annotated[
        bool | None, Option("--save-best", help="Train the cheapest of the tie set on train and val, and save it.")
    ] = None,
    out: Annotated[Path | None, Option(help="File for --save-best; FEATURES.HEAD.head by default.")] = None,
    csv: Csv = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Tune every head on the same images, and say which tie for the best.

    Run again after an interruption, it continues; finished trainings are kept beside the feature file.
    """
    options = _given(locals(), "csv", "plot") | _bytes(memory)
    _require_csv(csv)
    _require_plot(plot)
    from onepass import compare_heads

    with _progress("comparing", unit="trainings") as report:
        found = compare_heads(**options, progress=report)
    _show(found, as_json, plot=plot)
    if csv:
        found.write_csv(csv)


@_command("fine-tune", "Example: fine-tune photos.resnet50.logreg.head --unfreeze conv5 --lr 1e-4")
def fine_tune_command(
    target: Annotated[Path | None, Argument(help="Head file or feature file; by default the latter in here.")] = None,
    head: Annotated[str | None, Option(help="Head to train first on a feature file (logreg by default).")] = None,
    unfreeze: Annotated[
        str | None, Option(help="Number of layers, stage (see `onepass backbones --stages`), layer, all or auto.")
    ] = None,
    lr: Annotated[float | None, Option(help="Highest learning rate (1e-4 by default).")] = None,
    epochs: Annotated[int | None, Option(help="Passes over the images, at most (10 by default).")] = None,
    stages: Annotated[str | None, Option(help="Several parts, PART:RATExEPOCHS: conv5:1e-5x5, all:1e-6x3.")] = None,
    augment: Augment = None,
    views: Annotated[int | None, Option(help="Fixed views per image instead of new ones each epoch.")] = None,
    keep: Annotated[str | None, Option(help="Replace the frozen model when better (default), always, never.")] = None,
    from_scratch: Annotated[
        bool | None, Option("--from-scratch", help="Train the network from random weights instead, to compare.")
    ] = None,
    to: Annotated[str | None, Option(help="Format: keras (default), or h5 for the legacy one.")] = None,
    out: Annotated[Path | None, Option(help="Model file; FEATURES.finetuned.keras (or .scratch.keras) here.")] = None,
    tensorboard: Annotated[Path | None, Option(help="Folder for TensorBoard logs.", metavar="FOLDER")] = None,
    optimizer: Annotated[str | None, _optimization(help="adam (default), adamw or sgd.")] = None,
    schedule: Annotated[str | None, _optimization(help="Learning rate: cosine (default) or constant.")] = None,
    warmup: Annotated[float | None, _optimization(help="Fraction of the steps in which the rate rises.")] = None,
    layer_decay: Annotated[float | None, _optimization(help="Factor on the rate per stage away from the head.")] = None,
    clip: Annotated[float | None, _optimization(help="Largest norm of the gradient.")] = None,
    weight_decay: Annotated[float | None, _optimization(help="Decay of the weights (adamw).")] = None,
    label_smoothing: Annotated[float | None, _optimization(help="Share of each label spread over all classes.")] = None,
    class_weight: ClassWeight = None,
    train_batchnorm: Annotated[
        bool | None, _optimization("--train-batchnorm", help="Let BatchNorm learn; small batches ruin it.")
    ] = None,
    batch_size: Annotated[int | None, _optimization(help="Images per step.")] = None,
    patience: Annotated[int | None, _optimization(help="Epochs without progress after which a stage stops.")] = None,
    seed: Annotated[int | None, _optimization(help="Seed of the order, the views and the dropout.")] = None,
    data: Data = None,
    weights: Moved = None,
    engine: Engine = None,
    precision: Annotated[
        str | None, _running(help="float32, bfloat16, or auto: bfloat16 on GPUs that have it.")
    ] = None,
    boundary_cache: Annotated[str | None, _running(help="off, auto, or GB on disk for the frozen part.")] = None,
    workers: Workers = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Train a head and the upper layers of its backbone together; kept only if it is measurably better.

    Run again after an interruption, it continues after the last finished epoch.
    """
    options = _given(locals(), "plot")
    _require_plot(plot)
    from onepass import fine_tune

    with _progress("fine-tuning", unit="steps") as report:
        done = fine_tune(**options, progress=report, say=lambda line: typer.echo(line, err=True))
    _show(done, as_json, plot=plot)


@_command("inspect", "Example: onepass inspect photos.resnet50.h5 --csv findings.csv")
def inspect_command(
    features: Features = None,
    labels: Annotated[bool | None, Option("--labels/--no-labels", help="Look for wrong labels, which is slow.")] = None,
    csv: Csv = None,
    as_json: Json = False,
) -> None:
    """Find duplicates, labels worth a look, outliers and unreadable images."""
    options = _given(locals(), "csv")
    _require_csv(csv, fresh=True)
    from onepass import inspect

    with _progress("inspecting"):
        found = inspect(**options)
    _show(found, as_json)
    if csv:
        found.write_csv(csv)


@_command("predict", "Example: onepass predict photos.resnet50.mlp.head new.jpg more/ --out new.csv")
def predict_command(
    head: HeadFile,
    images: Annotated[list[Path] | None, Argument(help="Images, folders, tables; - reads names from stdin.")] = None,
    out: Annotated[
        str | None, Option(help="File that ends in .csv, .json, .jsonl or .parquet; or csv, json, jsonl for stdout.")
    ] = None,
    top: Annotated[int | None, Option(help="Classes to name per image (3 by default).")] = None,
    views: Annotated[int | None, Option(help="Views of each image to average over.")] = None,
    augment: Augment = None,
    unknown: Annotated[
        float | None,
        Option(help="Call images unknown that fit no class, at most this fraction of each class.", metavar="ALPHA"),
    ] = None,
    watch: Annotated[Path | None, Option(help="Go on with images that appear in this folder, until Ctrl-C.")] = None,
    images_in: TableImages = None,
    path: PathColumn = None,
    strict: Annotated[bool, Option("--strict", help="Exit with 1 if any image could not be read.")] = False,
    accept_drift: AcceptDrift = None,
    weights: Moved = None,
    engine: Engine = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Classify images with a trained head or a fine-tuned model.

    Predictions come in the order of the images, while later ones are still being read.
    """
    from onepass.features import OptionError, opt

    options = _given(locals(), "strict", "images", "OptionError", "opt")
    if as_json and out:
        raise OptionError(f"{opt.json} prints and {opt.out} writes; leave one of them out.")
    if as_json:
        options["out"] = "json"
    from onepass import write_predictions

    # What goes to a terminal is progress enough, and would run through the bar.
    to_file = out is not None and bool(Path(out).suffix)
    silent = watch or (not to_file and sys.stdout.isatty())
    with contextlib.nullcontext() if silent else _progress("predicting") as report:
        done = write_predictions(**options, images=_named(images) if images else (), progress=report)
    if to_file:
        print(done)
    if not as_json:
        _print_skipped(done.skipped)
    if to_file or (out is None and not as_json):
        _print_next(done)
    if done.interrupted and not watch:
        typer.echo(f"interrupted after {done.predicted} predictions", err=True)
        raise typer.Exit(130)
    if strict and done.skipped:
        raise typer.Exit(1)


@_command("nearest", "Example: onepass nearest photos.resnet50.mlp.head new.jpg --k 3")
def nearest_command(
    head: HeadFile,
    image: Annotated[Path, Argument(help="Image file.")],
    k: Annotated[int | None, Option(help="Training images to name (5 by default).")] = None,
    features: OtherFeatures = None,
    accept_drift: AcceptDrift = None,
    weights: Moved = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Name the training images that are most like an image, with their classes."""
    options = _given(locals())
    from onepass import nearest

    with _progress("preparing the backbone"):
        found = nearest(**options)
    _show(found, as_json)


@_command("explain", "Example: onepass explain photos.resnet50.logreg.head new.jpg more/ --out why")
def explain_command(
    head: HeadFile,
    images: Annotated[list[Path], Argument(help="Image files and folders.")],
    out: Annotated[Path | None, Option(help="New folder for a picture of each image.", metavar="FOLDER")] = None,
    label_class: Annotated[str | None, Option(help="Class to explain; the predicted one by default.")] = None,
    method: Annotated[str | None, Option(help="exact, occlusion, or auto (default): exact where it can be.")] = None,
    places: Annotated[int | None, Option(help="occlusion: places along each side (7 by default).")] = None,
    picture: Annotated[str | None, Option(help="png (default) or webp.")] = None,
    data: Annotated[list[Path] | None, Option(help="Where names are looked up; repeatable.", metavar="FOLDER")] = None,
    accept_drift: AcceptDrift = None,
    weights: Moved = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Show where in an image the score of a class comes from.

    Exactly for linear heads on rows that are means; else by hiding one place after the other.
    """
    options = _given(locals())
    from onepass import explain

    with _progress("explaining") as report:
        done = explain(**options, progress=report, say=lambda line: typer.echo(line, err=True))
    _show(done, as_json)


@_command("show", "Example: onepass show photos/ --resize crop --views 4")
def show_command(
    source: Annotated[list[Path] | None, Argument(help="Images, or a feature file; by default the one here.")] = None,
    out: Annotated[Path | None, Option(help="New PNG or WebP file (sheet.png by default).", metavar="FILE")] = None,
    count: Annotated[int | None, Option(help="Images to show (24 by default).")] = None,
    views: Annotated[int | None, Option(help="Views of each, the plain image first.")] = None,
    seed: Annotated[int | None, Option(help="Another seed, other images.")] = None,
    backbone: Annotated[str | None, Option(help="Whose pixels to show. [bundled one]")] = None,
    image_size: Annotated[int | None, Option(help="Side of the input in pixels; the network's by default.")] = None,
    resize: Annotated[str | None, Option(help="squash, crop, pad, keras, or native, as for extract.")] = None,
    preprocess: Preprocess = None,
    depth: Annotated[str | None, Option(help="Bits in use of 16-bit images, such as 12.")] = None,
    augment: Augment = None,
    data: Data = None,
    images: Annotated[str | None, _table(help="Where the images lie that the table names.", metavar="FOLDER")] = None,
    path: PathColumn = None,
    label: LabelColumn = None,
    label_separator: LabelSeparator = None,
    target: TargetColumn = None,
    as_json: Json = False,
) -> None:
    """Draw some images as the network sees them, with their labels; nothing is computed."""
    options = _given(locals())
    from onepass import write_sheet

    _show(write_sheet(**options), as_json)


@_command("evaluate", "Example: onepass evaluate photos.resnet50.mlp.head new_photos/")
def evaluate_command(
    head: HeadFile,
    target: Annotated[Path | None, Argument(help="Feature file (by default the one here), folder or table.")] = None,
    split: Annotated[str | None, Option(help="train, val, test, all, unseen, or auto (default): held out.")] = None,
    images: TableImages = None,
    path: PathColumn = None,
    label: LabelColumn = None,
    label_separator: LabelSeparator = None,
    target_column: TargetColumn = None,
    accept_drift: AcceptDrift = None,
    weights: Moved = None,
    engine: Engine = None,
    workers: Workers = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Score a head on labelled images."""
    options = _given(locals(), "plot")
    _require_plot(plot)
    from onepass import evaluate

    with _progress("evaluating") as report:
        done = evaluate(**options, progress=report)
    _show(done, as_json, plot=plot)


@_command("shift", "Example: onepass shift photos.resnet50.h5 new/ --head photos.resnet50.mlp.head")
def shift_command(
    features: Annotated[Path, Argument(help="Feature file of the training.")],
    data: Annotated[Path, Argument(help="New images: folder, table, archive or feature file.", metavar="NEW")],
    head: Annotated[Path | None, Option(help="Head trained on it: also say what this does to its accuracy.")] = None,
    out: Annotated[Path | None, Option(help="Write the head recentred on NEW, if labels prove it better.")] = None,
    sheet: Annotated[Path | None, Option(help="Draw the images that look newest: PNG or WebP.", metavar="FILE")] = None,
    images: TableImages = None,
    path: PathColumn = None,
    label: LabelColumn = None,
    label_separator: LabelSeparator = None,
    accept_drift: AcceptDrift = None,
    weights: Moved = None,
    engine: Engine = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Say how far new images lie from the training's, which lie farthest, and what that does to a head."""
    options = _given(locals())
    from onepass import shift

    with _progress("comparing") as report:
        done = shift(**options, progress=report)
    _show(done, as_json)


@_command("share", "Example: onepass share photos.resnet50.mlp.head --to fiftyone --out shared")
def share_command(
    source: Annotated[Path, Argument(help="Feature file; or head, whose predictions are shared too.")],
    to: Annotated[str, Option(help="projector (TensorBoard's), fiftyone or label-studio.")],
    out: Annotated[Path, Option(help="Folder to be made.")],
    features: OtherFeatures = None,
    data: Annotated[
        Path | None, _running(help="Where the images are now, if they were moved.", metavar="FOLDER")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write rows, labels and predictions as another tool takes them: to look at, or to correct labels there."""
    options = _given(locals())
    from onepass import share

    _show(share(**options), as_json)


@_command("export", "Example: onepass export photos.resnet50.mlp.head --to onnx")
def export_command(
    model: HeadFile,
    to: Annotated[str, Option(help="keras, h5, savedmodel, onnx, openvino or tflite.")],
    precision: Annotated[str | None, Option(help="float32 (default); float16, int8 for openvino and tflite.")] = None,
    takes_bytes: Annotated[bool | None, Option("--bytes", help="A savedmodel that takes JPEG and PNG files.")] = None,
    max_flips: Annotated[
        int | None, Option(help="Held-out images that may change their label; 0, or 2 % at reduced precision.")
    ] = None,
    data: Data = None,
    features: OtherFeatures = None,
    weights: Moved = None,
    workers: Workers = None,
    out: Annotated[Path | None, Option(help="File, or folder for savedmodel; HEAD's name here by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write backbone and head as one model, kept only if it does from image files what was measured.

    A certificate and a model card are written beside it.
    """
    options = _given(locals())
    from onepass import export

    with _progress("exporting"):
        done = export(**options)
    _show(done, as_json)


@_command("verify", "Exit codes: 0 whole, 3 damaged, 4 incomplete, 5 drifted, 6 golden rows not checked.")
def verify_command(
    file: Annotated[
        Path | None, Argument(help="Feature file (by default the one in this folder), head, model or certificate.")
    ] = None,
    certificate: Annotated[Path | None, Argument(help="Certificate of a model, by default beside it.")] = None,
    data: Annotated[list[Path] | None, Option(help="Where a certificate's images are; below here by default.")] = None,
    golden: Annotated[bool | None, Option("--golden/--no-golden", help="Recompute the golden rows.")] = None,
    weights: Moved = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Check what lies in a file, and whether this machine computes what it stands for: its golden rows.

    For an exported model: run the images of its certificate again, and compare.
    """
    options = _given(locals())
    from onepass import verify

    with _progress("verifying"):
        found = verify(**options)
    _show(found, as_json)
    raise typer.Exit(_EXIT_CODES[found.verdict])


@_command("repair", "Exit codes: 0 whole now, 4 some images still to do. Example: onepass repair photos.resnet50.h5")
def repair_command(
    file: Features = None,
    data: Data = None,
    drop: Annotated[bool | None, Option("--drop", help="Compute nothing; drop what is damaged or missing.")] = None,
    weights: Moved = None,
    engine: Engine = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Recompute only what is damaged or missing in a feature file, or drop it."""
    options = _given(locals())
    from onepass import repair

    with _progress("repairing") as report:
        done = repair(options.pop("file", None), **options, progress=report)
    _show(done, as_json)
    if done.left:
        raise typer.Exit(_EXIT_CODES["incomplete"])


@_command("label", "Example: onepass label photos.resnet50.h5 labels.csv")
def label_command(
    features: Annotated[Path, Argument(help="Feature file.")],
    table: Annotated[Path | None, Argument(help="Table of images and labels.", metavar="LABELS")] = None,
    relabel: Annotated[Path | None, Option(help="Or corrections; other labels stay.", metavar="FILE")] = None,
    path: PathColumn = None,
    label: LabelColumn = None,
    label_separator: LabelSeparator = None,
    target: TargetColumn = None,
    split: SplitColumn = None,
    group: GroupColumn = None,
    weight: WeightColumn = None,
    as_json: Json = False,
) -> None:
    """Put labels, splits and groups from a table on the rows of a feature file; no image is read."""
    options = _given(locals())
    from onepass import label as put_labels

    _show(put_labels(**options), as_json)


@_command("report", "Example: onepass report photos.resnet50.mlp.head --out report.html")
def report_command(
    path: Annotated[
        Path | None, Argument(help="Feature file, head, model, certificate, or JSON of compare-heads.", metavar="FILE")
    ] = None,
    out: Annotated[Path | None, Option(help="The HTML file; report.html by default.", metavar="FILE")] = None,
    data: Data = None,
    features: OtherFeatures = None,
    max_images: Annotated[int | None, Option(help="Pictures in it, at most (200 by default).")] = None,
    images: Annotated[bool | None, Option("--images/--no-images", help="No pictures: for private data.")] = None,
    explain: Annotated[bool | None, Option("--explain/--no-explain", help="Mark what answers came from.")] = None,
    as_json: Json = False,
) -> None:
    """Write what any of these files shows as one HTML file: it opens offline, and can be mailed."""
    options = _given(locals())
    from onepass import report

    with _progress("reporting"):
        done = report(**options)
    _show(done, as_json)


@_command("info", "Example: onepass info photos.resnet50.h5")
def info_command(
    file: Annotated[Path | None, Argument(help="Any file of onepass; by default the feature file here.")] = None,
    summary: Annotated[bool | None, Option("--summary", help="Show a head or model as Keras's summary().")] = None,
    as_json: Json = False,
) -> None:
    """Show what a file holds and where it came from."""
    options = _given(locals())
    from onepass import info

    _show(info(**options), as_json, all_skipped=True)


@_command("backbones", "Example: onepass backbones --json")
def backbones_command(
    stages: Annotated[str | None, Option(help="List the stages of this one or .keras file.", metavar="NAME")] = None,
    verify: Annotated[
        str | None, Option(help="Compare this one with its own framework, as --backbone names it.", metavar="NAME")
    ] = None,
    weights: Weights = None,
    preprocess: Preprocess = None,
    as_json: Json = False,
) -> None:
    """List every backbone with its input size and the width of its rows, the stages of one, or the proof of one."""
    options = _given(locals())
    from onepass import backbones

    with _progress("building the network") if stages or verify else contextlib.nullcontext():
        found = backbones(**options)
    _show(found, as_json)
    if proof := getattr(found, "proof", None):
        raise typer.Exit(0 if proof.holds else 1)


@_command("doctor", "Example: onepass doctor --offline")
def doctor_command(
    offline: Annotated[bool | None, Option("--offline", help="Do not ask whether weights can be reached.")] = None,
    gpu: Annotated[bool | None, Option("--gpu", help="Ask TensorFlow for GPUs, which takes seconds.")] = None,
    as_json: Json = False,
) -> None:
    """Look what of this machine and installation can be used, and say what to do about the rest.

    Sends one request for the size of a file with weights, to where Keras downloads them from, and nothing else.
    """
    options = _given(locals())
    from onepass import doctor

    with _progress("looking around"):
        found = doctor(**options)
    _show(found, as_json)
    if not found.healthy:
        raise typer.Exit(1)


@_command("cache", "Example: onepass cache --clear networks --older 30")
def cache_command(
    folder: Annotated[Path | None, Argument(help="Folder of feature files; this one by default.")] = None,
    clear: Annotated[
        str | None, Option(help="networks, int8, boundaries, comparisons, trials, downloads; all.")
    ] = None,
    older: Annotated[float | None, Option(help="Remove only what is older than so many days.", metavar="DAYS")] = None,
    as_json: Json = False,
) -> None:
    """Show converted networks, boundary caches, comparison results and trials, or remove them.

    What a running process has open stays. int8 networks can be made again only from the images they were made with.
    """
    options = _given(locals())
    from onepass import cache

    _show(cache(**options), as_json)


def _require_csv(path: Path | None, *, fresh: bool = False) -> None:
    from onepass.features import require_place

    if path:
        require_place(path, option="csv", fresh=fresh)


def _require_plot(path: Path | None) -> None:
    from onepass.heads import require_plot

    require_plot(path)


def _given(values: dict[str, Any], *others: str) -> dict[str, Any]:
    """What was typed, by the library's names; what was not has the library's default."""
    return {name: value for name, value in values.items() if value is not None and name not in ("as_json", *others)}


def _bytes(memory: float | None) -> dict[str, int]:
    """The memory option as the library takes it, if it was given."""
    from onepass.heads.head_options import in_bytes

    return {} if memory is None else {"memory": in_bytes(memory)}


def _flag(name: str, *value: object) -> str:
    """A parameter of the library as it is typed here."""
    flag = _FLAGS.get(name, name).replace("_", "-")
    if value and isinstance(value[0], bool):  # not 0 and 1, which equal them
        return f"--{flag}" if value[0] else f"--no-{flag}"
    return " ".join((f"--{flag}", *map(str, value)))


def _named(paths: Sequence[Path]) -> Iterator[Path]:
    """The paths, and for - those that stand on stdin, one per line."""
    from onepass.extract import listed_names

    for path in paths:
        yield from listed_names(sys.stdin.buffer) if str(path) == "-" and sys.stdin else (path,)


def _progress(what: str, unit: str = "images") -> contextlib.AbstractContextManager[Callable[..., None]]:
    from onepass.extract import progress_shown

    return progress_shown(what, unit=unit)


def _show(result: Any, as_json: bool, *, all_skipped: bool = False, plot: Path | None = None) -> None:
    """Prints a result of the library: as JSON, or in its own words with what was skipped on stderr; then draws it."""
    from onepass.features.names import shown_in

    if as_json:
        print(json.dumps(shown_in(result.record()), indent=1))
    else:
        print(result)
        _print_skipped(getattr(result, "skipped", ()), all_of_them=all_skipped)
        _print_next(result)
    if plot:
        from onepass.heads import save_plot

        save_plot(result, plot)


def _print_next(result: Any) -> None:
    if following := getattr(result, "next_command", ""):
        typer.echo(f"Next: {following}", err=True)


def _print_skipped(skipped: Sequence[Any], *, all_of_them: bool = False) -> None:
    from onepass.features.names import printable, shown

    named = skipped if all_of_them else skipped[:_SHOWN]
    for image in named:
        typer.echo(f"skipped {shown(image.path)}: {printable(image.reason)}", err=True)
    if len(named) < len(skipped):
        typer.echo(f"... and {len(skipped) - len(named)} more; --json lists them all", err=True)


def _run(program: typer.Typer, name: str) -> None:
    # SIGTERM ends a command as Ctrl-C does; both end one in the background too, where a shell lets it ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # File names need not be UTF-8; printing one must not end in an error.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    program(prog_name=name)


extract_program, train_head_program, compare_heads_program, fine_tune_program = (
    functools.partial(_run, program, name) for name, program in _ALONE.items()
)
onepass_program = functools.partial(_run, app, "onepass")
