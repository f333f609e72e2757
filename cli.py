"""The command line: parse, call the library once, print one result."""

import contextlib
import functools
import io
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

_SETTINGS = {"rich_markup_mode": "rich", "pretty_exceptions_enable": False, "add_completion": False}
onepass = typer.Typer(
    help="One pass of a frozen, pretrained backbone over your images; then heads in seconds.",
    no_args_is_help=True,
    **_SETTINGS,  # type: ignore[arg-type]
)
_extract_alone = typer.Typer(**_SETTINGS)  # type: ignore[arg-type]
_train_head_alone = typer.Typer(**_SETTINGS)  # type: ignore[arg-type]
_compare_heads_alone = typer.Typer(**_SETTINGS)  # type: ignore[arg-type]
_fine_tune_alone = typer.Typer(**_SETTINGS)  # type: ignore[arg-type]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Engine = Annotated[str, typer.Option(help="openvino, tensorflow, or auto: tensorflow where there is a GPU.")]
Weights = Annotated[str | None, typer.Option(help="imagenet, or a .weights.h5 or legacy .h5 file.", metavar="FILE")]
Moved = Annotated[str | None, typer.Option(help="Where the backbone's weights or .keras file lie now.", metavar="FILE")]
Augment = Annotated[
    str | None,
    typer.Option(
        help="Recipe of views: classic, or flip,rotate=20,shift=0.2,shear=0.2,zoom=0.2,brightness=0.1,crop=0.7."
    ),
]
AcceptDrift = Annotated[
    bool, typer.Option("--accept-drift", help="Go on although this machine computes other rows; it is recorded.")
]
Workers = Annotated[int | None, typer.Option(help="Decoding threads; by default one per processor.")]
Tune = Annotated[str, typer.Option(help="How long to look for the best strength: none, fast or thorough.")]
TimeLimit = Annotated[float | None, typer.Option(help="Seconds after which tuning settles for the best so far.")]
ClassWeights = Annotated[
    str | None, typer.Option("--class-weight", help="balanced, or weights by class: cats=2,dogs=1.", metavar="WEIGHTS")
]
Features = Annotated[Path | None, typer.Argument(help="Feature file; by default the one in this folder.")]
HeadFile = Annotated[Path, typer.Argument(help="Head file that train-head wrote.", metavar="HEAD")]


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turns what a user can mend into one message on stderr: exit 1, or 2 for wrong usage."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from onepass.features.errors import OptionError, UserError

        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        try:
            command(*args, **kwargs)
        except UserError as error:
            typer.echo(f"error: {error.spelled(_flag)}", err=True)
            raise typer.Exit(2 if isinstance(error, OptionError) else 1) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; what was finished is kept. Run the same command again to continue.", err=True)
            raise typer.Exit(130) from None

    return run


@onepass.command("extract", epilog="Example: extract --backbone resnet50 photos/")
@_extract_alone.command(epilog="Example: extract --backbone resnet50 photos/")
@_guarded
def extract_command(
    data: Annotated[list[Path], typer.Argument(help="Class folders, optionally under train, val and test folders.")],
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Name (see `onepass backbones`) or .keras file, with @LAYER cut there; by default the bundled one."
        ),
    ] = None,
    weights: Weights = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the input, pixels; by default the network's.")] = None,
    resize: Annotated[
        str | None, typer.Option(help="squash (default), crop, pad, or keras: as image_dataset_from_directory.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="avg (default), max or flatten.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16, int8, or auto (default): bfloat16 where it is native.")
    ] = None,
    engine: Engine = "auto",
    views: Annotated[int | None, typer.Option(help="Views per image: the plain one and seeded variants.")] = None,
    augment: Augment = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            help="CSV file, path,group: images of a group (a patient, a video) share a split.", metavar="FILE"
        ),
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(help="Or a pattern whose first parentheses find the group in the path.", metavar="REGEX"),
    ] = None,
    row_dtype: Annotated[
        str | None, typer.Option(help="float32 (default) or float16: half the disk, rounded to 3 digits.")
    ] = None,
    base: Annotated[
        list[Path] | None, typer.Option(help="Feature file whose rows are reused; may be given again.", metavar="FILE")
    ] = None,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Read every image to see whether it changed, not only size and time.")
    ] = False,
    accept_drift: AcceptDrift = False,
    batch_size: Annotated[int | None, typer.Option(help="Rows committed together; images per TensorFlow step.")] = None,
    workers: Workers = None,
    out: Annotated[Path | None, typer.Option(help="Feature file; by default DATA.BACKBONE.h5 here.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only try 64 images and say what the pass would cost.")] = False,
    as_json: Json = False,
) -> None:
    """Run a backbone over a folder of images, or several, once and keep the rows.

    The same command again, after a crash or with new images, computes only what is missing.
    """
    from onepass.extract import check_folder, load_backbone, plan_extraction, run_extraction

    grouping = _given(groups=groups, group_pattern=group_pattern)
    check_folder(data, **grouping)
    with _progress("preparing the backbone", total=False):
        ready = load_backbone(
            **_given(
                name=backbone,
                weights=weights,
                image_size=image_size,
                resize=resize,
                pooling=pooling,
                precision=precision,
                engine=engine,
                batch_size=batch_size,
            )
        )
    options = _given(out=out, views=views, augment=augment, row_dtype=row_dtype, base=base, workers=workers) | grouping
    if plan:
        _show(plan_extraction(data, ready, **options), as_json)
        return
    with _progress("extracting") as report:
        options |= {"rehash": rehash, "accept_drift": accept_drift, "progress": report, **_given(batch_size=batch_size)}
        done = run_extraction(data, ready, **options)
    _show(done, as_json)
    if not as_json:
        _print_skipped([(s.path, s.reason) for s in done.skipped])


@onepass.command("train-head", epilog="Example: train-head --head mlp --hidden 256,128")
@_train_head_alone.command(epilog="Example: train-head --head mlp --hidden 256,128")
@_guarded
def train_head_command(
    features: Features = None,
    head: Annotated[
        str, typer.Option(help="logreg, svm, rbf-svm, ridge, lda, knn, centroid, mlp or linear.")
    ] = "logreg",
    tune: Tune = "fast",
    time_limit: TimeLimit = None,
    class_weight: ClassWeights = None,
    strength: Annotated[float | None, typer.Option("--C", help="logreg, svm, rbf-svm: inverse penalty.")] = None,
    gamma: Annotated[float | None, typer.Option(help="rbf-svm: width of the kernel.")] = None,
    alpha: Annotated[float | None, typer.Option(help="ridge: penalty.")] = None,
    shrinkage: Annotated[float | None, typer.Option(help="lda: of the covariance, up to 1.")] = None,
    shrink: Annotated[float | None, typer.Option(help="centroid: standard errors towards the middle.")] = None,
    neighbours: Annotated[int | None, typer.Option(help="knn: how many vote.")] = None,
    decay: Annotated[float | None, typer.Option(help="knn: cosine over which a vote loses a factor e.")] = None,
    hidden: Annotated[str | None, typer.Option(help="mlp: units of the hidden layers, 256,128; 0 for none.")] = None,
    activation: Annotated[str | None, typer.Option(help="mlp: of the hidden layers, by Keras's name.")] = None,
    dropout: Annotated[float | None, typer.Option(help="mlp: share of units dropped in training.")] = None,
    output: Annotated[str | None, typer.Option(help="mlp: softmax, or sigmoid for one unit and two classes.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="mlp, linear: adam, adamw, sgd, rmsprop, nadam, lion.")] = None,
    lr: Annotated[float | None, typer.Option(help="mlp, linear: learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="mlp, linear: of the weights.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="mlp, linear: share given to all classes.")] = None,
    epochs: Annotated[int | None, typer.Option(help="mlp, linear: at most so many passes over the rows.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="mlp, linear: rows per step.")] = None,
    patience: Annotated[int | None, typer.Option(help="mlp, linear: epochs without progress before it stops.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of folds, weights and order.")] = None,
    max_images: Annotated[int | None, typer.Option(help="Train on so many images at most.")] = None,
    memory: Annotated[
        float | None, typer.Option(help="GB to take; mlp and linear read the file in pieces if that is too little.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Head file; by default FEATURES.HEAD.head here.")] = None,
    as_json: Json = False,
) -> None:
    """Train a head on cached rows and score it on images it has not seen.

    What is not given is tuned on folds of the training images.
    """
    path = features or _only_feature_file()
    from onepass.heads import train_head

    options = _given(
        C=strength,
        gamma=gamma,
        alpha=alpha,
        shrinkage=shrinkage,
        shrink=shrink,
        neighbours=neighbours,
        decay=decay,
        hidden=None if hidden is None else _hidden_layers(hidden),
        activation=activation,
        dropout=dropout,
        output=output,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        epochs=epochs,
        batch_size=batch_size,
        patience=patience,
        seed=seed,
        class_weight=_class_weights(class_weight),
        time_limit=time_limit,
        max_images=max_images,
        memory=None if memory is None else round(memory * 1e9),
    )
    with _progress(f"training {head}", total=False):
        done = train_head(path, head=head, out=out, tune=tune, **options)
    saved, scored = done.head, done.head.evaluation
    if as_json:
        record = {"path": str(saved.path), "head": saved.kind, "split": scored.measured_on, **asdict(scored)}
        del record["measured_on"], record["confusion"]
        _print_json({**record, "seconds": round(done.seconds, 3), "parameters": saved.parameters})
        return
    print(f"{saved.path}: {saved.kind}, {scored.measured_on} {scored}, fitted in {done.seconds:.1f} s")
    print("parameters: " + ", ".join(f"{name} {_plain(value)}" for name, value in saved.parameters.items()))
    _print_scores(scored)


@onepass.command("compare-heads", epilog="Example: compare-heads --heads logreg,svm,mlp:512 --cv 5x2")
@_compare_heads_alone.command(epilog="Example: compare-heads --heads logreg,svm,mlp:512 --cv 5x2")
@_guarded
def compare_heads_command(
    features: Annotated[
        list[Path] | None, typer.Argument(help="Feature files of the same images; by default the one in this folder.")
    ] = None,
    heads: Annotated[str, typer.Option(help="all, or names with commas, such as logreg,svm,mlp:256x128.")] = "all",
    cv: Annotated[
        str | None, typer.Option(help="Folds x repeats outside the test part, such as 5x2.", metavar="FxR")
    ] = None,
    split: Annotated[bool, typer.Option("--split", help="Train on train, score on test: the default.")] = False,
    metric: Annotated[str, typer.Option(help="accuracy, balanced, macro-f1, log-loss or auroc.")] = "accuracy",
    seeds: Annotated[int, typer.Option(help="Trainings per head with other folds and weights, averaged.")] = 1,
    tune: Tune = "fast",
    time_limit: TimeLimit = None,
    class_weight: ClassWeights = None,
    learning_curve: Annotated[
        bool, typer.Option("--learning-curve", help="Also train the best on fewer images, and forecast more.")
    ] = False,
    save_best: Annotated[
        bool, typer.Option("--save-best", help="Train the cheapest of the tie set on train and val, and save it.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Where --save-best writes; by default FEATURES.HEAD.head.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the table to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Tune every head on the same images, and say which tie for the best.

    Run again after an interruption, it goes on; finished trainings lie beside the feature file.
    """
    from onepass.features.errors import OptionError
    from onepass.heads import compare_heads

    if split and cv:
        raise OptionError("--split and --cv are two ways to score; give one of them.")
    with _progress("comparing", unit="trainings") as report:
        found = compare_heads(
            features or [_only_feature_file()],
            heads=heads,
            cv=cv,
            metric=metric,
            seeds=seeds,
            tune=tune,
            time_limit=time_limit,
            class_weight=_class_weights(class_weight),
            learning_curve=learning_curve,
            save_best=save_best,
            out=out,
            progress=report,
        )
    if csv:
        found.write_csv(csv)
    _show(found, as_json)


@onepass.command("fine-tune", epilog="Example: fine-tune photos.resnet50.logreg.head --unfreeze conv5 --lr 1e-4")
@_fine_tune_alone.command(epilog="Example: fine-tune photos.resnet50.logreg.head --unfreeze conv5 --lr 1e-4")
@_guarded
def fine_tune_command(
    target: Annotated[
        Path | None, typer.Argument(help="Head file, or feature file; by default the feature file in this folder.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Where the images lie, if not where they were; may be given again.")
    ] = None,
    head: Annotated[str, typer.Option(help="Head to train first, where the target is a feature file.")] = "logreg",
    unfreeze: Annotated[
        str | None, typer.Option(help="Number of layers, stage (see `onepass backbones --stages`), layer, all or auto.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; 1e-4 by default.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many; 10 by default.")] = None,
    stages: Annotated[
        str | None, typer.Option(help="Several parts in turn, PART:RATExEPOCHS: conv5:1e-5x5, all:1e-6x3.")
    ] = None,
    augment: Augment = None,
    views: Annotated[int | None, typer.Option(help="Fixed views per image instead of new ones each epoch.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam, adamw or sgd.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine or constant.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps in which the rate rises.")] = None,
    layer_decay: Annotated[float | None, typer.Option(help="Factor on the rate per stage away from the head.")] = None,
    clip: Annotated[float | None, typer.Option(help="Longest gradient.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of adamw.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of a label given to all classes; 0.1 by default.")
    ] = None,
    class_weight: ClassWeights = None,
    train_batchnorm: Annotated[
        bool, typer.Option("--train-batchnorm", help="Let BatchNorm learn; small batches ruin it.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    precision: Annotated[str, typer.Option(help="float32, bfloat16, or auto: bfloat16 on GPUs that have it.")] = "auto",
    patience: Annotated[int | None, typer.Option(help="Epochs without progress before a stage ends.")] = None,
    boundary_cache: Annotated[
        str, typer.Option(help="off, auto, or GB that the frozen part's output may take on disk.")
    ] = "auto",
    keep: Annotated[str, typer.Option(help="When the result replaces the frozen model: better, always, never.")] = (
        "better"
    ),
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train the same network from random weights, to compare.")
    ] = False,
    to: Annotated[str, typer.Option(help="Format: keras, or h5 for the legacy one.")] = "keras",
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard logs.", metavar="FOLDER")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order, views and dropout.")] = None,
    weights: Moved = None,
    engine: Engine = "auto",
    workers: Workers = None,
    out: Annotated[Path | None, typer.Option(help="Model file; by default FEATURES.finetuned.keras here.")] = None,
    as_json: Json = False,
) -> None:
    """Train a head and the upper layers of its backbone together; kept only if it is measurably better.

    Run again after an interruption, it goes on after the last finished epoch.
    """
    from onepass.extract.pixels.random_layers import require_drawable
    from onepass.features import FeatureFile
    from onepass.features.errors import OptionError
    from onepass.heads.finetune import Plan, TuningStage, fine_tune

    if stages and _given(unfreeze=unfreeze, lr=lr, epochs=epochs):
        raise OptionError(
            "--stages says what to unfreeze, how fast and for how long; leave --unfreeze, --lr and --epochs out."
        )
    if to not in ("keras", "h5"):
        raise OptionError(f"--to is {to!r}; needed: keras or h5.")
    usual = {"unfreeze": "all", "lr": 1e-3} if from_scratch else {"unfreeze": "auto", "lr": 1e-4}
    alone: dict[str, Any] = {**usual, "epochs": 10, **_given(unfreeze=unfreeze, lr=lr, epochs=epochs)}
    plan = Plan(
        stages=TuningStage.parse(stages) if stages else (TuningStage(**alone),),
        train_batchnorm=train_batchnorm or from_scratch,
        **_given(
            optimizer=optimizer,
            schedule=schedule,
            warmup=warmup,
            layer_decay=layer_decay,
            clip=clip,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            class_weight=_class_weights(class_weight),
            batch_size=batch_size,
            patience=patience,
            views=views,
            augment=augment,
            seed=seed,
        ),
    )
    require_drawable(augment, fixed=plan.views > 1)
    features, saved = _start_of(target, head)
    with FeatureFile(features) as file, _progress("fine-tuning", unit="steps") as report:
        done = fine_tune(
            features,
            saved,
            plan,
            _tuning_sources(file, saved, plan, data or [], weights, engine, workers, from_scratch, precision),
            boundary_cache=boundary_cache,
            keep=keep,
            from_scratch=from_scratch,
            out=out or Path(f"{features.stem}.finetuned.{to}"),
            tensorboard=tensorboard,
            progress=report,
            say=lambda line: typer.echo(line, err=True),
        )
    _show(done, as_json)
    if not as_json:
        _print_table(
            [
                ["class", "n", "before", "after", "mended", "broken"],
                *(
                    [name, str(c.n), f"{c.before:.3f}", f"{c.after:.3f}", str(c.mended), str(c.broken)]
                    for name, c in done.per_class.items()
                ),
            ]
        )


@onepass.command("inspect", epilog="Example: onepass inspect photos.resnet50.h5 --csv findings.csv")
@_guarded
def inspect_command(
    features: Features = None,
    labels: Annotated[bool, typer.Option("--labels/--no-labels", help="Look for wrong labels; takes longest.")] = True,
    csv: Annotated[Path | None, typer.Option(help="Also write every finding to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Find duplicates, likely label errors, outliers and unreadable images."""
    from onepass.heads import inspect

    with _progress("inspecting", total=False):
        found = inspect(features or _only_feature_file(), labels=labels)
    if csv:
        found.write_csv(csv)
    _show(found, as_json)


@onepass.command("predict", epilog="Example: onepass predict photos.resnet50.mlp.head new.jpg more/ --out new.csv")
@_guarded
def predict_command(
    head: Annotated[Path, typer.Argument(help="Head file, or .keras model that fine-tune wrote.", metavar="HEAD")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Image files and folders of them; - reads their names from stdin.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="File that ends in .csv, .json, .jsonl or .parquet; or csv, json, jsonl alone.")
    ] = None,
    top: Annotated[int, typer.Option(help="Classes to name per image.")] = 3,
    views: Annotated[int, typer.Option(help="Views of each image to average over; 1 is the plain image.")] = 1,
    augment: Augment = None,
    unknown: Annotated[
        float | None,
        typer.Option(help="Call unknown what fits no class; at most this share of each is wronged.", metavar="ALPHA"),
    ] = None,
    watch: Annotated[
        Path | None, typer.Option(help="Go on with every image that appears in this folder, until Ctrl-C.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any image could not be read.")] = False,
    accept_drift: AcceptDrift = False,
    weights: Moved = None,
    engine: Engine = "auto",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Classify images with a trained head or a fine-tuned model.

    Answers come in the order of the images, while later ones are still being read.
    """
    from onepass.extract import find_images, watch_folder
    from onepass.features.errors import OptionError
    from onepass.heads.predict.predict import check_rows, predict_images
    from onepass.heads.predict.writers import open_answers, write_answers

    if not images and not watch:
        raise OptionError("no images are named; give files, folders, - for names on stdin, or --watch FOLDER.")
    if as_json and out:
        raise OptionError("--json prints and --out writes; leave one of them out.")
    if watch and out and Path(out).suffix in (".json", ".parquet"):
        raise OptionError("--watch has no end, which .json and .parquet need; write .csv or .jsonl.")
    later = watch_folder(watch) if watch else ()
    saved, backbone = _classifier(head, weights, engine)
    _warn_of_drift(check_rows(saved, backbone, accept_drift=accept_drift))
    predict = functools.partial(
        predict_images, saved, backbone, top=top, views=views, augment=augment, unknown=unknown, workers=workers,
        accept_drift=True,
    )  # fmt: skip
    answers = itertools.chain([predict(find_images(_named(images or [])))], map(predict, later))
    target, to_file = out or ("json" if as_json else "text"), bool(out and Path(out).suffix)
    with (
        open_answers(target, ranks=min(top, len(saved.class_names)), unknown=unknown is not None) as writer,
        # Answers on stdout are progress enough, and would run through the bar.
        _progress("predicting", total=False) if to_file else contextlib.nullcontext() as report,
    ):
        try:
            write_answers(itertools.chain.from_iterable(answers), writer, progress=report)
        except KeyboardInterrupt:
            if not watch:
                typer.echo(f"interrupted after {writer.predicted} answers", err=True)
                raise typer.Exit(130) from None
    if to_file:
        print(f"{out}: {writer.predicted} images predicted, {len(writer.skipped)} skipped")
    if not as_json:
        _print_skipped([(s.path, s.reason) for s in writer.skipped])
    if not writer.predicted and not watch:
        typer.echo("error: no image could be read. Needed: JPEG, PNG, BMP, GIF, WebP or TIFF files.", err=True)
    if (not writer.predicted and not watch) or (strict and writer.skipped):
        raise typer.Exit(1)


@onepass.command("nearest", epilog="Example: onepass nearest photos.resnet50.mlp.head new.jpg --k 3")
@_guarded
def nearest_command(
    head: HeadFile,
    image: Annotated[Path, typer.Argument(help="Image file.")],
    k: Annotated[int, typer.Option(help="Training images to name.")] = 5,
    features: Annotated[
        Path | None, typer.Option(help="Feature file of the training, if not where it was.", metavar="FILE")
    ] = None,
    accept_drift: AcceptDrift = False,
    weights: Moved = None,
    engine: Engine = "auto",
    as_json: Json = False,
) -> None:
    """Name the training images that are most like an image, with their classes."""
    from onepass.features import FeatureFile
    from onepass.heads.predict.nearest import nearest_images, training_file
    from onepass.heads.predict.predict import check_rows
    from onepass.heads.saved_head import load_head

    saved = load_head(head)
    with FeatureFile(features or training_file(saved)) as file:
        backbone = _backbone_of(saved, weights, engine)
        _warn_of_drift(check_rows(saved, backbone, accept_drift=accept_drift))
        found = nearest_images(saved, backbone.rows_of([image])[0], file, k=k)
    if as_json:
        _print_json([asdict(neighbour) for neighbour in found])
    else:
        _print_table([[n.path, n.label, n.split, f"{n.cosine:.3f}"] for n in found])


@onepass.command("evaluate", epilog="Example: onepass evaluate photos.resnet50.mlp.head new_photos/")
@_guarded
def evaluate_command(
    head: HeadFile,
    target: Annotated[
        Path | None, typer.Argument(help="Feature file (by default the one in this folder) or folder of images.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val, test, all, unseen, or auto: what was held out.")] = "auto",
    accept_drift: AcceptDrift = False,
    weights: Moved = None,
    engine: Engine = "auto",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Score a head on labelled images."""
    from onepass.heads.evaluation import Answers, match_labels, score
    from onepass.heads.saved_head import load_head

    saved = load_head(head)
    target = target or _only_feature_file()
    if target.is_dir():
        from onepass.extract import rows_of_folder
        from onepass.heads.predict.predict import check_rows

        backbone = _backbone_of(saved, weights, engine)
        _warn_of_drift(check_rows(saved, backbone, accept_drift=accept_drift))
        with _progress("extracting") as report:
            rows = rows_of_folder(
                target,
                backbone,
                part=split,
                seen=saved.seen,
                class_names=saved.class_names,
                seed=int(saved.trained_on.get("seed", 0)),
                workers=workers,
                progress=report,
            )
        answers, y, names, part, copies = Answers.of(saved, [rows.x]), rows.y, rows.class_names, rows.part, None
        skipped = [(s.path, s.reason) for s in rows.skipped]
    else:
        from onepass.features import FeatureFile

        with FeatureFile(target) as file:
            saved.require_rows_of(file)
            file.require_complete()
            positions, part = file.rows_to_score(split, seen=saved.seen)
            answers, y = Answers.of(saved, file.pieces(positions)), file.table.labels[positions]
            names, skipped, copies = file.class_names, [], saved.copies_in(file, positions)
    labels = match_labels(y, names, saved.class_names)
    result = score(answers, labels, saved.class_names, measured_on=part, copies=copies)
    if as_json:
        _print_json({**asdict(result), "skipped": [{"path": p, "reason": r} for p, r in skipped]})
        return
    print(f"{head} on {target} ({part}): {result}")
    _print_scores(result)
    print("\nconfusion (rows: true class, columns: predicted)")
    counts = zip(result.per_class, result.confusion, strict=True)
    _print_table([["", *result.per_class], *([name, *map(str, row)] for name, row in counts)])
    _print_skipped(skipped)


@onepass.command("export", epilog="Example: onepass export photos.resnet50.mlp.head --to onnx")
@_guarded
def export_command(
    model: Annotated[Path, typer.Argument(help="Head file, or model that fine-tune wrote.", metavar="HEAD")],
    to: Annotated[str, typer.Option(help="keras, h5, savedmodel, onnx, openvino or tflite.")],
    precision: Annotated[
        str, typer.Option(help="Of the weights: float32; float16 and int8 for openvino and tflite.")
    ] = "float32",
    takes_bytes: Annotated[
        bool, typer.Option("--bytes", help="A savedmodel that takes encoded JPEG and PNG files.")
    ] = False,
    max_flips: Annotated[
        int | None,
        typer.Option(help="Held-out images that may get another label; by default 0, at reduced precision 2 %."),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Where the images lie, if not where they were; may be given again.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Feature file of the training, if not where it was.", metavar="FILE")
    ] = None,
    weights: Moved = None,
    workers: Workers = None,
    out: Annotated[
        Path | None, typer.Option(help="File, or folder for savedmodel; by default HEAD's name here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write backbone and head as one model, kept only if it does from image files what was measured.

    A certificate and a model card are written beside it.
    """
    from onepass.extract import LabelledPixels, Source, load_trainable, trainable_within
    from onepass.extract.pixels.resize_graph import resizer
    from onepass.features import FeatureFile
    from onepass.heads.export import ExportSources, export_model
    from onepass.heads.finetune.model_file import tuned_model
    from onepass.heads.predict.nearest import training_file
    from onepass.heads.saved_head import load_head

    saved = tuned_model(model) if _is_whole_model(model) else load_head(model)
    spec, source = saved.spec, Source.of(saved.trained_on, weights)

    def backbone(part: Any = None) -> Any:
        if part is not None:
            return trainable_within(part, spec=spec, source=source)
        return load_trainable(spec, source=source, needed_by=str(model))

    with FeatureFile(features or training_file(saved)) as file, _progress("exporting", total=False):
        images = LabelledPixels(file, data=data or [], workers=workers)
        done = export_model(
            saved,
            file,
            ExportSources(backbone, functools.partial(resizer, spec.resize, spec.image_size), images),
            to=to,
            out=out,
            precision=precision,
            takes_bytes=takes_bytes,
            max_flips=max_flips,
        )
    _show(done, as_json)


_EXIT_CODES = {"whole": 0, "damaged": 3, "incomplete": 4, "drifted": 5, "unproven": 6}


@onepass.command("verify", epilog="Exit codes: 0 whole, 3 damaged, 4 incomplete, 5 drifted, 6 golden rows not checked.")
@_guarded
def verify_command(
    file: Annotated[
        Path | None, typer.Argument(help="Feature file (by default the one in this folder), or exported model.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Argument(help="Of an exported model; by default what lies beside it.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Where the images of a certificate lie; by default below this folder.")
    ] = None,
    golden: Annotated[bool, typer.Option("--golden/--no-golden", help="Recompute the golden rows.")] = True,
    weights: Moved = None,
    engine: Engine = "auto",
    as_json: Json = False,
) -> None:
    """Check every checksum, flag and count of a feature file, and whether this machine computes its rows.

    Of an exported model: run the images of its certificate again, and compare.
    """
    from onepass.extract import verify
    from onepass.features.errors import OptionError

    if file and (certificate or _looks_exported(file)):
        _verify_model(file, certificate or Path(f"{file}.certificate.json"), data, as_json)
        return
    if data:
        raise OptionError("--data says where the images of an exported model's certificate lie; name the model.")
    with _progress("verifying", total=False):
        found = verify(file or _only_feature_file(), golden=golden, weights=weights, engine=engine)
    _show(found, as_json)
    raise typer.Exit(_EXIT_CODES[found.verdict])


@onepass.command(
    "repair", epilog="Exit codes: 0 whole now, 4 some images still to do. Example: onepass repair photos.resnet50.h5"
)
@_guarded
def repair_command(
    file: Features = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Where the images lie, if not where they were; may be given again.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Compute nothing; drop what is bad or missing.")] = False,
    weights: Moved = None,
    engine: Engine = "auto",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Recompute only what is bad or missing in a feature file, or drop it."""
    from onepass.extract import repair

    with _progress("repairing") as report:
        done = repair(
            file or _only_feature_file(),
            data=data,
            drop=drop,
            weights=weights,
            engine=engine,
            workers=workers,
            progress=report,
        )
    _show(done, as_json)
    if not as_json:
        _print_skipped([(s.path, s.reason) for s in done.left])
    if done.left:
        raise typer.Exit(_EXIT_CODES["incomplete"])


@onepass.command("info", epilog="Example: onepass info photos.resnet50.h5")
@_guarded
def info_command(
    file: Annotated[
        Path | None, typer.Argument(help="Feature file or head file; by default the feature file here.")
    ] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Print a head as Keras's model.summary().")] = False,
    as_json: Json = False,
) -> None:
    """Say what a feature file or a head file holds and where it came from."""
    from onepass.heads.saved_head import is_head

    file = file or _only_feature_file()
    if file.is_file() and is_head(file):
        _head_info(file, summary, as_json)
    elif summary:
        from onepass.features.errors import OptionError

        raise OptionError(f"--summary is for head files; {file} is none.")
    else:
        _feature_info(file, as_json)


@onepass.command("backbones", epilog="Example: onepass backbones --json")
@_guarded
def backbones_command(
    stages: Annotated[
        str | None, typer.Option(help="List the parts of this one, a name or .keras file, instead.", metavar="NAME")
    ] = None,
    as_json: Json = False,
) -> None:
    """List every backbone with its input size and the width of its rows, or the stages of one."""
    if stages is not None:
        _list_stages(stages, as_json)
        return
    from onepass.extract.backbones.catalogue import BUNDLED, CATALOGUE

    if as_json:
        fields = ("image_size", "width")
        _print_json({name: {f: getattr(entry, f) for f in fields} for name, entry in CATALOGUE.items()})
        return
    rows = [["name", "pixels", "width", "weights"]]
    for entry in CATALOGUE.values():
        origin = "bundled" if entry.name == BUNDLED else "downloaded by Keras, or --weights"
        rows.append([entry.name, str(entry.image_size), str(entry.width), origin])
    _print_table(rows)


def _list_stages(name: str, as_json: bool) -> None:
    from onepass.extract.backbones.trainable import list_stages

    with _progress("building the network", total=False):
        found = list_stages(name)
    if as_json:
        _print_json([{**asdict(stage), "boundary_bytes": stage.boundary_bytes} for stage in found])
        return
    if not found:
        print(f"{name} has no layers with the usual names, so no stages. Parts of it are named by a layer or a number.")
        return
    rows = [["stage", "first layer", "layers", "parameters", "boundary", "bytes per image"]]
    for stage in found:
        size = f"{stage.boundary_bytes:,}" if stage.boundary else "-"
        counts = [str(stage.layers), f"{stage.parameters:,}"]
        rows.append([stage.name, stage.first, *counts, stage.boundary or "the image", size])
    _print_table(rows)


def _head_info(path: Path, summary: bool, as_json: bool) -> None:
    from onepass.heads.saved_head import load_head

    head = load_head(path)
    if summary:
        from onepass.heads.inference.keras_layers import summary as keras_summary

        text = keras_summary(head.network, dropout=float(head.parameters.get("dropout") or 0.0))
        print(json.dumps({"summary": text}) if as_json else text)
        return
    facts = {
        "file": str(path),
        "head": head.kind,
        "classes": list(head.class_names),
        "spec": asdict(head.spec),
        "parameters": head.parameters,
        "evaluation": asdict(head.evaluation),
        "trained_on": head.trained_on,
        "unknown": asdict(head.abstention) if head.abstention else None,
        "bytes": path.stat().st_size,
    }
    if as_json:
        _print_json(facts)
        return
    print(f"{path}: {head.kind} head, {head.evaluation.measured_on} {head.evaluation}")
    _print_table(
        [
            ["classes", ", ".join(head.class_names)],
            ["rows", str(head.spec)],
            ["weights hash", head.spec.weights_hash],
            ["parameters", ", ".join(f"{k} {_plain(v)}" for k, v in head.parameters.items())],
            *([["unknown", str(head.abstention)]] if head.abstention else []),
            *_provenance_lines(head.trained_on),
        ]
    )


def _feature_info(path: Path, as_json: bool) -> None:
    from onepass.features import SPLITS, FeatureFile, find_duplicates, find_overlapping_groups
    from onepass.features.duplicates import describe_duplicates
    from onepass.features.overlapping_groups import describe_overlapping_groups

    with FeatureFile(path) as file:
        table, duplicates = file.table, find_duplicates(file)
        groups, torn = len(table.group_names()), find_overlapping_groups(table)
        splits = {name: len(file.rows_of(name)) for name in SPLITS}
        counts = {name: int((table.labels[file.committed] == i).sum()) for i, name in enumerate(file.class_names)}
        facts: dict[str, Any] = {
            "file": str(path),
            "images": len(file),
            "views": file.views,
            "committed": int(file.committed.sum()),
            "pending": len(file.pending()),
            "skipped": [asdict(s) for s in file.skipped],
            "classes": counts,
            "splits": splits,
            "duplicates": [asdict(group) for group in duplicates],
            "groups": groups,
            "overlapping_groups": [asdict(group) for group in torn],
            "row_dtype": file.row_dtype,
            "spec": asdict(file.spec),
            "provenance": file.provenance,
            "bytes": path.stat().st_size,
        }
        title = str(file)
    if as_json:
        _print_json(facts)
        return
    print(f"{path}: {title}")
    _print_table(
        [
            [
                "committed",
                f"{facts['committed']} of {facts['images']} images"
                + (f", {facts['pending']} to do" if facts["pending"] else ""),
            ],
            ["classes", ", ".join(f"{name} {count}" for name, count in counts.items())],
            ["splits", ", ".join(f"{name} {count}" for name, count in splits.items())],
            *(
                [["groups", f"{groups}; {describe_overlapping_groups(torn)}" if torn else str(groups)]]
                if groups
                else []
            ),
            ["rows", f"{file.spec}" + (", stored as float16" if facts["row_dtype"] == "float16" else "")],
            ["weights hash", file.spec.weights_hash],
            *([["duplicates", describe_duplicates(duplicates)]] if duplicates else []),
            *_provenance_lines(file.provenance),
        ]
    )
    _print_skipped([(s["path"], s["reason"]) for s in facts["skipped"]], all_of_them=True)


def _named(paths: list[Path]) -> Iterator[Path]:
    """The paths, and for - those that stand on stdin, one per line."""
    for path in paths:
        if str(path) == "-" and sys.stdin:
            yield from (Path(name) for line in sys.stdin if (name := line.rstrip("\r\n")))
        else:
            yield path


def _classifier(path: Path, weights: str | None, engine: str) -> tuple[Any, Any]:
    """A head with its backbone, from a head file or a whole model."""
    from onepass.heads.saved_head import load_head

    if _is_whole_model(path):
        from onepass.extract import load_backbone
        from onepass.features.errors import OptionError
        from onepass.heads.finetune.model_file import as_head, logits_of

        if weights:
            raise OptionError("--weights does not go with a fine-tuned model, which brings its own weights.")
        with _progress("preparing the model", total=False):
            backbone = load_backbone(**logits_of(path), engine=engine)
        return as_head(path, backbone), backbone
    saved = load_head(path)
    return saved, _backbone_of(saved, weights, engine)


def _is_whole_model(path: Path) -> bool:
    """True for what fine-tune and export write for Keras; a head file may have any name."""
    if path.suffix != ".h5":
        return path.suffix == ".keras"
    from onepass.heads.finetune.model_file import is_model

    return is_model(path)


def _backbone_of(head: Any, weights: str | None, engine: str) -> Any:
    """The backbone whose rows a saved head takes."""
    from onepass.extract import Source, load_backbone_for

    source = Source.of(head.trained_on, weights)
    with _progress("preparing the backbone", total=False):
        return load_backbone_for(head.spec, source=source, engine=engine, needed_by=str(head.path))


def _looks_exported(path: Path) -> bool:
    """True for what export writes: by its ending, as a folder, or by the certificate beside it."""
    exported = path.suffix in (".keras", ".onnx", ".xml", ".tflite") or path.is_dir()
    return exported or Path(f"{path}.certificate.json").is_file()


def _verify_model(model: Path, certificate: Path, data: list[Path] | None, as_json: bool) -> None:
    """Repeats what a certificate says of a model."""
    from onepass.extract import ImageFiles
    from onepass.heads.export import Certificate, verify_model

    proven = Certificate.read(certificate)
    with _progress("verifying", total=False):
        images, found = ImageFiles.found_in(
            data or [Path()], proven.content_hashes, image_size=proven.image_size, resize=proven.resize
        )
        done = verify_model(model, proven, images, found)
    _show(done, as_json)
    raise typer.Exit(_EXIT_CODES[done.verdict])


def _start_of(target: Path | None, kind: str) -> tuple[Path, Any]:
    """Feature file and saved head that a fine-tuning starts from; trains the head if only features are given."""
    from onepass.features.errors import HeadFileError
    from onepass.heads import train_head
    from onepass.heads.saved_head import is_head, load_head

    target = target or _only_feature_file()
    if target.is_file() and is_head(target):
        saved = load_head(target)
        features = Path(str(saved.trained_on.get("features")))
        if not features.is_file():
            raise HeadFileError(
                f"{target} was trained on {features}, which is not there. Give the feature file instead of the head: "
                f"fine-tune FEATURES --head {saved.kind}"
            )
        return features, saved
    with _progress(f"training {kind}", total=False):
        return target, train_head(target, head=kind).head


def _tuning_sources(
    file: Any,
    saved: Any,
    plan: Any,
    data: list[Path],
    weights: str | None,
    engine: str,
    workers: int | None,
    from_scratch: bool,
    precision: str,
) -> Any:
    """Network and images of a fine-tuning, which the heads know nothing of."""
    from onepass.extract import LabelledPixels, Source, load_trainable, random_layers, run_extraction
    from onepass.heads.finetune import Sources

    fixed = plan.views > 1

    def boundary(backbone: Any, layer: str, path: Path) -> None:
        folders = data or [Path(folder) for folder in file.provenance.get("folders") or []]
        axis = {"views": plan.views, "augment": plan.augment} if fixed else {}
        run_extraction(folders, backbone.trunk(layer, engine=engine), out=path, **axis, **_given(workers=workers))

    return Sources(
        backbone=functools.partial(
            load_trainable,
            saved.spec,
            source=Source.of(saved.trained_on, weights),
            needed_by=str(saved.path),
            random=plan.seed if from_scratch else None,
            precision=precision,
        ),
        pixels=LabelledPixels(file, data=data, augmentation=plan.augment if fixed else None, workers=workers),
        boundary=boundary,
        random_layers=functools.partial(random_layers, plan.augment, seed=plan.seed)
        if plan.augment and not fixed
        else None,
    )


def _warn_of_drift(drift: Any) -> None:
    if drift and not drift.accepted:
        typer.echo(f"accepted: this machine computes other rows than the head was trained on, {drift}", err=True)


def _only_feature_file() -> Path:
    """The one feature file of the current folder."""
    from onepass.features.errors import FeatureFileError, OptionError
    from onepass.features.file import is_feature_file

    found = [path for path in sorted(Path().glob("*.h5")) if is_feature_file(path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise OptionError("several feature files here; name one of " + ", ".join(map(str, found)) + ".")
    raise FeatureFileError("no feature file in this folder. Make one with: extract DATA")


def _hidden_layers(text: str) -> tuple[int, ...]:
    from onepass.features.errors import OptionError

    try:
        units = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"--hidden is {text!r}; needed: units of each layer, such as 256,128, or 0.") from None
    return () if units == (0,) else units


def _class_weights(text: str | None) -> Any:
    """balanced, or "cats=2,dogs=1" as a dictionary."""
    from onepass.features.errors import OptionError

    if text is None or "=" not in text:
        return text
    try:
        return {name: float(value) for name, value in (part.rsplit("=", 1) for part in text.split(","))}
    except ValueError:
        raise OptionError(f"--class-weight is {text!r}; needed: balanced, or such as cats=2,dogs=1.") from None


_FLAGS = {"takes_bytes": "bytes"}


def _flag(name: str, *value: object) -> str:
    """A parameter of the library as it is typed here."""
    flag = _FLAGS.get(name, name).replace("_", "-")
    if value in ((True,), (False,)):
        return f"--{flag}" if value[0] else f"--no-{flag}"
    return " ".join((f"--{flag}", *map(str, value)))


def _given(**options: Any) -> dict[str, Any]:
    """Only what was typed: the defaults are the library's."""
    return {name: value for name, value in options.items() if value is not None}


@contextlib.contextmanager
def _progress(what: str, *, total: bool = True, unit: str = "images") -> Iterator[Callable[..., None] | None]:
    """A bar with rate and time left on stderr, or nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = [SpinnerColumn(), TextColumn("{task.description}")]
    if total:
        rate = TextColumn("{task.fields[rate]}")
        columns += [BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def report(done: int, of: int, name: str = "") -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f} {unit}/s" if speed else ""
            bar.update(task, description=f"{what} {name}".strip(), completed=done, total=of, rate=rate)

        yield report


def _show(result: Any, as_json: bool) -> None:
    """Prints a result of the library: as JSON, or in its own words."""
    if as_json:
        _print_json(result.record())
    else:
        print(result)


def _print_json(record: Any) -> None:
    print(json.dumps(record, indent=1))


def _print_scores(scored: Any) -> None:
    if scored.log_loss is not None:
        print(f"log loss {scored.log_loss:.3f}, calibration error {scored.calibration_error:.3f}")
    if scored.leak_free:
        print(scored.leak_free)
    rows = [["class", "n", "precision", "recall", "f1"]]
    for name, value in scored.per_class.items():
        rows.append([name, str(value.n), f"{value.precision:.3f}", f"{value.recall:.3f}", f"{value.f1:.3f}"])
    _print_table(rows)


def _print_table(rows: list[list[str]]) -> None:
    columns = max((len(row) for row in rows), default=0)
    widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(columns)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())


def _print_skipped(skipped: list[tuple[str, str]], *, all_of_them: bool = False) -> None:
    shown = skipped if all_of_them else skipped[:20]
    for path, reason in shown:
        typer.echo(f"skipped {path}: {reason}", err=True)
    if len(shown) < len(skipped):
        typer.echo(f"... and {len(skipped) - len(shown)} more; --json lists them all", err=True)


def _provenance_lines(provenance: dict[str, Any]) -> list[list[str]]:
    """Name and value of all that is known; each environment on a line of its own."""
    environments = [["environment", _plain(found)] for found in provenance.get("environments") or []]
    others = {name: value for name, value in provenance.items() if name != "environments" and value is not None}
    return [[name.replace("_", " "), _plain(value)] for name, value in others.items()] + environments


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return str(value)


def _run(program: typer.Typer, name: str) -> None:
    # File names need not be UTF-8; printing one must not end in an error.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    program(prog_name=name)


def extract_program() -> None:
    """Entry point of `extract`."""
    _run(_extract_alone, "extract")


def train_head_program() -> None:
    """Entry point of `train-head`."""
    _run(_train_head_alone, "train-head")


def compare_heads_program() -> None:
    """Entry point of `compare-heads`."""
    _run(_compare_heads_alone, "compare-heads")


def fine_tune_program() -> None:
    """Entry point of `fine-tune`."""
    _run(_fine_tune_alone, "fine-tune")


def onepass_program() -> None:
    """Entry point of `onepass`."""
    _run(onepass, "onepass")
