"""Which backbone for these images? Several are tried on a sample, and their tuned heads compared."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from onepass.extract import FolderSample, Trial, check_backbone, check_running, draw_sample, trials_folder
from onepass.features import CLASSES, Spec
from onepass.features.errors import BackboneError, OptionError, UserError, opt
from onepass.features.progress import duration, phase
from onepass.heads.compare.candidates import candidates_of
from onepass.heads.compare.choice import BackboneChoice, TriedBackbone
from onepass.heads.compare.compare import compare_heads, require_metric
from onepass.heads.compare.report import HeadsComparison
from onepass.heads.compare.resampling import folds_and_repeats

DEFAULT = ("efficientnet_lite0", "mobilenetv2", "efficientnetv2b0", "resnet50")
"""From light to heavy. The first is bundled; weights of the others are Keras's, downloaded unless they are here."""

SAMPLE, LEAST_SAMPLE = 600, 200
"""Images that are tried; with fewer than the second hardly any two backbones can be told apart."""

CV = "5x2"
"""Folds x repeats of the comparison."""


def choose_backbone(
    data: str | Path | Sequence[str | Path],
    candidates: str | Sequence[str] | Mapping[str, str | Path] = DEFAULT,
    *,
    sample: int = SAMPLE,
    head: str = "logreg",
    metric: str = "accuracy",
    groups: str | Path | Mapping[str, str] | None = None,
    group_pattern: str | None = None,
    precision: str = "auto",
    engine: str = "auto",
    workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> BackboneChoice:
    """Tries backbones on a sample of the images and says which to take, and what another one would cost.

    A stratified sample of the images outside the test part, see `stratified_sample`, goes through each backbone; a
    tuned head on its rows is trained and scored on five folds, dealt twice, the same for all; the heads are tested in
    pairs as by `compare_heads`. Of the backbones that cannot be told apart from the best, and score at most a hundredth
    less, the cheapest is taken.

    Rows and results are kept in `<data>.trials` in the current folder: an interrupted call goes on there, and the
    extraction of all images takes the rows over. A backbone that cannot be used is named with the reason.

    >>> print(choose_backbone("photos/", ["efficientnet_lite0", "resnet50"]))  # doctest: +SKIP
    accuracy of logreg on 5 folds x 2 of 600 images outside the test part
    ...
    Take efficientnet_lite0: ...

    Args:
        data: The image folder, or several, as for `run_extraction`.
        candidates: Names as for `load_backbone`, in a list or with commas; `name=FILE` gives the weights of one. Or
            a mapping of names to weights, which are "imagenet" or a file.
        sample: Images to try, 200 or more; all outside the test part, if there are no more.
        head: Kind of the head, such as logreg or mlp:256.
        metric: accuracy, balanced, macro-f1, log-loss or auroc.
        groups: Which images belong together, as for the pass.
        group_pattern: As for the pass.
        precision: float32, bfloat16, int8 or auto, for all of them.
        engine: openvino, tensorflow or auto.
        workers: Decoding threads.
        progress: Called with (images done, images to do, name of the backbone).
        say: Called with a line that estimates how long it takes, before the images go through.

    Raises:
        OptionError: An option is wrong, or fewer than two backbones are named.
        DataError: The folder cannot be used.
        BackboneError: Fewer than two of the backbones can be used.
        TrainingError: The sample allows no comparison.
    """
    named = _named(candidates)
    if sample < LEAST_SAMPLE:
        raise OptionError(f"{opt.sample} is {sample}; needed: {LEAST_SAMPLE} or more.", sample=sample)
    candidates_of([head], [""], {"tune": "fast"})
    require_metric(metric, CLASSES)
    check_running(workers=workers)
    for name, weights in named.items():
        check_backbone(name, weights=weights, precision=precision, engine=engine)
    drawn = draw_sample(data, sample, groups=groups, group_pattern=group_pattern)
    trials_folder(data)
    failed: dict[str, str] = {}
    trials = []
    for name, weights in named.items():
        try:
            with phase(f"preparing {name}"):
                trials.append(Trial(name, drawn, workers=workers, weights=weights, precision=precision, engine=engine))
        except UserError as error:
            failed[name] = error.message
    _require_two(trials, failed)
    say(_estimate(trials, drawn, head))
    ready = _run(trials, failed, progress)
    _require_two(ready, failed)
    with phase(f"comparing {len(ready)} backbones"):
        found = compare_heads([one.path for one in ready], heads=[head], cv=CV, metric=metric)
    tried, untrained = _tried(ready, found)
    failed |= untrained
    _require_two(tried, failed)
    return BackboneChoice(
        tried=tried,
        comparison=found,
        head=head,
        images=drawn.images,
        failed={name: str(UserError(reason)) for name, reason in failed.items()},
        data=[Path(folder) for folder in ([data] if isinstance(data, str | Path) else data)],
        options=_repeated(precision=precision, engine=engine, groups=groups, group_pattern=group_pattern),
    )


def _named(candidates: str | Sequence[str] | Mapping[str, str | Path]) -> dict[str, str]:
    """Name of each backbone -> its weights."""
    if isinstance(candidates, Mapping):
        pairs = [(name, str(weights)) for name, weights in candidates.items()]
    else:
        texts = candidates.split(",") if isinstance(candidates, str) else [str(one) for one in candidates]
        parts = [text.strip().partition("=") for text in texts]
        pairs = [(name, weights or "imagenet") for name, _, weights in parts]
    names = [name for name, _ in pairs]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise OptionError(f"{opt.candidates} names {doubled[0]} twice; needed: each backbone once.")
    if len(names) < 2:
        alone = f"{names[0]} alone" if names else "none"
        raise OptionError(
            f"{opt.candidates} names {alone}; needed: two backbones or more, such as "
            f"{opt.candidates('efficientnet_lite0,resnet50=resnet50.weights.h5')}.",
            candidates=names,
        )
    return dict(pairs)


def _repeated(**options: str | Path | Mapping[str, str] | None) -> dict[str, str]:
    """What the extraction of all images must be told as well; a mapping cannot be typed."""
    typed = {name.replace("_", "-"): value for name, value in options.items() if isinstance(value, str | Path)}
    return {name: str(value) for name, value in typed.items() if value != "auto"}


def _require_two(usable: Sequence[object], failed: Mapping[str, str]) -> None:
    """Refuses to compare fewer than two.

    Raises:
        BackboneError: With the reasons of those that cannot be used.
    """
    if len(usable) > 1:
        return
    reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in failed.items())
    count = "only one" if usable else "none"
    raise BackboneError(
        f"{count} of the {len(usable) + len(failed)} backbones can be used here; needed: two to compare. {reasons}. "
        "Name others, or files with weights, such as "
        f"{opt.candidates('efficientnet_lite0,resnet50=resnet50.weights.h5')}.",
        failed=dict(failed),
    )


def _estimate(trials: Sequence[Trial], drawn: FolderSample, head: str) -> str:
    """What is about to be done, and how long the backbones will take for it."""
    folds, repeats = folds_and_repeats(CV)
    each = ", ".join(f"{one.name} {duration(one.seconds_left)}" for one in trials)
    seconds = duration(sum(one.seconds_left for one in trials))
    return (
        f"{len(drawn.contents):,} of {drawn.images:,} images through {len(trials)} backbones take about {seconds} "
        f"({each}); then {head} is trained {folds * repeats} times on the rows of each"
    )


def _run(
    trials: Sequence[Trial], failed: dict[str, str], progress: Callable[[int, int, str], None] | None
) -> list[Trial]:
    """Runs the trials; returns those that came to an end, and adds the reasons of the others to `failed`."""
    ready, done, total = [], 0, sum(one.missing for one in trials)
    for one in trials:
        missing, before = one.missing, done

        def report(count: int, _: int, one: Trial = one, before: int = before) -> None:
            if progress:
                progress(min(before + count, total), total, one.name)

        try:
            one.run(report)
            ready.append(one)
        except UserError as error:
            failed[one.name] = error.message
        done = before + missing
    return ready


def _tried(trials: Sequence[Trial], found: HeadsComparison) -> tuple[list[TriedBackbone], dict[str, str]]:
    """What each trial came to, the best score first; and by name, why a head could not be trained on its rows."""
    scores = {score.features: (place, score) for place, score in enumerate(found.scores)}
    by_place: dict[int, TriedBackbone] = {}
    untrained = {}
    for one in trials:
        if str(one.path) not in scores:
            names = (one.spec.backbone, one.path.stem)
            untrained[one.name] = next(why for name, why in found.failed.items() if name.rpartition("/")[0] in names)
            continue
        place, score = scores[str(one.path)]
        by_place[place] = TriedBackbone(
            name=one.name,
            weights=str(one.settings.get("weights", "imagenet")),
            features=one.path,
            score=score.score,
            interval=score.interval,
            to_best=found.test.to_best[score.name],
            tied=score.name in found.test.ties,
            images_per_second=one.cost.images_per_second,
            memory=one.cost.memory,
            seconds=one.seconds_for_all,
            licence=licence_of(one.spec),
        )
    return [one for _, one in sorted(by_place.items())], untrained


def licence_of(spec: Spec) -> str:
    """The licence of a backbone's weights, where the spec states it."""
    return spec.licence
