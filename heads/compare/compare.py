"""Every head, tuned, trained and scored on the same images, and tested in pairs."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onepass.features import CLASSES, LABELS, NUMBER, FeatureFile, only_feature_file
from onepass.features.errors import OptionError, TrainingError, opt
from onepass.features.places import require_place
from onepass.features.progress import log, phase
from onepass.features.tables import Record
from onepass.heads.compare.candidates import Candidate, candidates_of
from onepass.heads.compare.common_images import common_images
from onepass.heads.compare.learning_curves import growing_shares, learning_curves
from onepass.heads.compare.report import HeadsComparison, HeadScore
from onepass.heads.compare.resampling import Round, Rounds, folds_and_repeats, held_out_part, repeated_folds
from onepass.heads.compare.run_cache import FitRequest, FitResult, RunCache, fit_and_score
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.fitting.pca import SharedComponents
from onepass.heads.head_options import LEARNED, class_weights, require_positive
from onepass.heads.saved_head import require_no_other_file
from onepass.heads.stats.bootstrap import (
    RESAMPLES,
    Resampled,
    bootstrap_interval,
    effective_size,
    interval_of,
    paired_bootstrap_test,
    resample,
    resamples_for,
)
from onepass.heads.stats.cross_validation_tests import corrected_interval, corrected_t_test
from onepass.heads.stats.metrics import HIGHER_IS_BETTER, METRICS_OF, SHARES, calibration_error, metric
from onepass.heads.stats.multiple_comparison import Comparison, PairedTest, compare_all
from onepass.heads.stats.paired_tests import paired_test
from onepass.heads.tasks.task import task_of
from onepass.heads.training import train_head
from onepass.heads.zero_shot.prompts import check_prompts


@dataclass(frozen=True)
class _Entry:
    """A candidate and its results, one per round."""

    candidate: Candidate
    results: list[FitResult]


@one_blas_thread
def compare_heads(
    features: str | Path | Sequence[str | Path] | None = None,
    *,
    heads: str | Sequence[str] = "all",
    cv: str | None = None,
    split: bool = False,
    metric: str | None = None,
    seeds: int = 1,
    tune: str = "fast",
    class_weight: str | Mapping[str, float] | None = None,
    time_limit: float | None = None,
    memory: int | None = None,
    prompts: str | Path | Sequence[str | Path] | None = None,
    learning_curve: bool = False,
    save_best: bool = False,
    out: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> HeadsComparison:
    """Tunes, trains and scores heads on the same images, and tests which of them differ.

    A head that cannot be trained on these images is left out of the table and named with the reason.

    The result of each finished fit is kept beside the feature file: an interrupted comparison resumes, and
    one with a further head trains that head alone.

    >>> print(compare_heads("photos.h5", heads="logreg,knn"))
    accuracy on test, n=24
    head    accuracy  95 % interval   points to best (joint 95 %)
    ...
    ... cannot be told apart with 24 images; ...; the cheapest is ...

    Args:
        features: A feature file, or several of the same images; by default the one in the current folder.
        heads: "all", or names such as logreg, svm, mlp:256x128.
        cv: FOLDSxREPEATS, such as 5x2, over all images outside the test part; None: train on the training
            part, score on the test part.
        split: Says the latter in words, which nothing changes but that `cv` is refused.
        metric: accuracy (default), balanced, macro-f1, log-loss or auroc; of
            labels map (default), micro-f1, macro-f1, subset or log-loss; of numbers mae (default), rmse or r2.
        seeds: Trainings per head with other folds and initial weights; scores are averaged. Not with `cv`.
        tune: none, fast or thorough.
        class_weight: None, "balanced", class name -> weight, or the same as text: "cats=2,dogs=1".
        time_limit: Seconds that each head may tune for.
        memory: Bytes that each training may take; by default what is free. As in `train_head`.
        prompts: For the heads text and text-logreg, which "all" names only where there are some; see `train_head`.
        learning_curve: Also trains the best heads on 10 to 100 % of the training images.
        save_best: Trains the cheapest head of the tie set on train and val, and saves it.
        out: The head file of `save_best`; by default as `train_head` names it.
        progress: Called with (fits done, fits in all, name of the next).

    Raises:
        OptionError: An option is wrong.
        TrainingError: The images do not allow it, or none of the heads can be trained on them.
        FeatureFileError: A feature file cannot be read, or is not complete.
    """
    _check(metric, cv, seeds, split)
    require_positive(memory=memory)
    if out is not None and not save_best:
        raise OptionError(f"{opt.out} is where {opt.save_best(True)} saves the head; give both.", out=out)
    options: Record = {"tune": tune, "class_weight": class_weights(class_weight), "time_limit": time_limit}
    options["prompts"] = prompts
    candidates_of(heads, [""], options)  # refused before any file is opened
    features = only_feature_file() if features is None else features
    paths = [features] if isinstance(features, str | Path) else list(features)
    if save_best:
        require_place(out or "best.head")
        require_no_other_file(Path(out or "best.head"))
    with ExitStack() as stack:
        files = [stack.enter_context(FeatureFile(path)) for path in paths]
        task = task_of(files[0])
        metric = require_metric(metric or task.metrics[0], task.name)
        candidates = candidates_of(heads, _names(files), options, task.name)
        for file in files:
            file.require_complete()
            for one in candidates:
                task.require_options(one.head, {**one.options}, file)
        images = common_images(files)
        for place in {one.file for one in candidates if "prompts" in one.options}:
            check_prompts(files[place])
        first = images.positions[0]
        rounds = repeated_folds(files[0], first, cv=cv) if cv else held_out_part(files[0], first, seeds=seeds)
        if learning_curve:
            growing_shares(files[0], first)  # or the comparison is lost on what is too little for a curve
        run = _Runner(files, images.positions, len(candidates) * len(rounds.rounds), progress, memory)
        entries, failed = _trained(_together(candidates), rounds, run)
        judged = _Judge(files[0], first, rounds, metric)
        with phase("testing which differ"):
            compared = judged.comparison(entries, paths)
        found = replace(compared, left_out=images.left_out, failed=failed)
        if learning_curve:
            best = [one for one in candidates if one.name in _leaders(found)]
            found = replace(found, learning=learning_curves(files[0], first, best, run))
    if save_best:
        found = replace(found, saved=_save(found, candidates, paths, out, memory))
    return found


class _Runner:
    """Takes results from the cache, or fits and scores the head."""

    def __init__(
        self,
        files: list[FeatureFile],
        images: list[np.ndarray],
        total: int,
        progress: Callable[[int, int, str], None] | None,
        memory: int | None,
    ) -> None:
        self.memory = memory
        self.files, self.images, self.caches = files, images, [RunCache(file) for file in files]
        self.done, self.total, self.progress = 0, total, progress
        self.shared = SharedComponents()

    def __call__(self, candidate: Candidate, at: Round) -> FitResult:
        if self.progress:
            self.progress(self.done, max(self.total, self.done + 1), candidate.name)
        positions, cache = self.images[candidate.file], self.caches[candidate.file]
        options = {**candidate.options, "seed": at.seed}
        request = FitRequest(candidate.head, options, positions[at.trained], positions[at.scored])
        result = cache.get(request)
        log.info("%s, seed %d: %s", candidate.name, at.seed, "trained before" if result else "training")
        if result is None:
            result = fit_and_score(cache.file, request, self.shared, self.memory)
            cache.put(request, result)
        self.done += 1
        return result


def _trained(candidates: Iterable[Candidate], rounds: Rounds, run: _Runner) -> tuple[list[_Entry], dict[str, str]]:
    """The candidates with their results; and by name, why others have none.

    Raises:
        TrainingError: No candidate has any.
    """
    entries, failed = [], {}
    for one in candidates:
        try:
            entries.append(_Entry(one, [run(one, at) for at in rounds.rounds]))
        except TrainingError as error:
            failed[one.name] = error.message
    if not entries:
        reasons = set(failed.values())
        listed = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise TrainingError(reasons.pop() if len(reasons) == 1 else f"no head could be trained. {listed}", heads=failed)
    return entries, failed


class _Judge:
    """Scores entries and tests them in pairs."""

    def __init__(self, file: FeatureFile, images: np.ndarray, rounds: Rounds, metric: str) -> None:
        self.rounds, self.metric = rounds, metric
        self.task, scored = file.task, [images[at.scored] for at in rounds.rounds]
        wanted = [file.wanted(some) for some in scored]
        self.y = [y[:, None] for y in wanted] if self.task == NUMBER else wanted
        self.weights = [file.weights(some) if file.table.weighted else None for some in scored]
        once = np.concatenate([at.scored for at in rounds.rounds[: rounds.folds or 1]])  # every scored image
        groups = file.group_ids()[images[once]]
        self.groups = groups if len(np.unique(groups)) < len(groups) else None

    def comparison(self, entries: list[_Entry], paths: Sequence[str | Path]) -> HeadsComparison:
        scores = sorted((self._score(entry, paths) for entry in entries), key=self._merit, reverse=True)
        ordered = sorted(entries, key=lambda e: [s.name for s in scores].index(e.candidate.name))
        copies = self.rounds.copies
        clean = ~copies
        apart = None
        if copies.any() and clean.sum() > 1 and not self.rounds.folds:
            with contextlib.suppress(TrainingError):  # images of one class alone, say, are left
                apart = self._test(ordered, clean)
        return HeadsComparison(
            measured_on=self.rounds.measured_on,
            images=self.rounds.images,
            metric=self.metric,
            scores=scores,
            test=self._test(ordered, None),
            copies=int(copies.sum()),
            leak_free=apart,
        )

    def _merit(self, score: HeadScore) -> float:
        return score.score if HIGHER_IS_BETTER[self.metric] else -score.score

    def _score(self, entry: _Entry, paths: Sequence[str | Path]) -> HeadScore:
        per_round = self._per_round(entry)
        if self.rounds.folds and (undefined := int(np.isnan(per_round).sum())):
            raise TrainingError(
                f"{self.metric} has no value in {undefined} of {len(per_round)} folds, whose images are of one class. "
                f"Ask for fewer folds by {opt.cv}, or for another {opt.metric}.",
                metric=self.metric,
            )
        clean = ~self.rounds.copies
        leaky = not self.rounds.folds and not clean.all()
        return HeadScore(
            name=entry.candidate.name,
            head=entry.candidate.head,
            features=str(paths[entry.candidate.file]),
            parameters=entry.results[-1].parameters,
            score=float(per_round.mean()),
            interval=self._interval(entry, per_round),
            **self._further(entry),
            leak_free=self._leak_free(entry, clean) if leaky and clean.any() else None,
            fit_seconds=float(np.median([result.fit_seconds for result in entry.results])),
            predict_microseconds=float(np.median([result.predict_microseconds for result in entry.results])),
            head_bytes=int(np.median([result.head_bytes for result in entry.results])),
        )

    def _further(self, entry: _Entry) -> Record:
        """What else is said of all rounds together: by the names of `HeadScore`."""
        y = np.concatenate(self.y)
        weights = None if self.weights[0] is None else np.concatenate([w for w in self.weights if w is not None])
        if self.task == CLASSES:
            outputs = np.concatenate([result.outputs for result in entry.results])
            return {
                "log_loss": _metric("log-loss", outputs, y, weights),
                "calibration_error": calibration_error(outputs, y, weights=weights),
            }
        others = (name for name in METRICS_OF[self.task] if name != self.metric)
        found = {
            name: _metric(name, np.concatenate([self._outputs(one, name) for one in entry.results]), y, weights)
            for name in others
        }
        return {
            "log_loss": None,
            "calibration_error": None,
            "further": {name: value if np.isfinite(value) else None for name, value in found.items()},
        }

    def _leak_free(self, entry: _Entry, clean: np.ndarray) -> float | None:
        score = float(self._per_round(entry, clean).mean())
        return score if np.isfinite(score) else None

    def _outputs(self, result: FitResult, name: str) -> np.ndarray:
        """(n, k) as a metric takes them: where it counts the labels that are named, each begins at 0.5."""
        if self.task == LABELS and name not in ("map", "log-loss"):
            return np.asarray(result.outputs - result.thresholds + 0.5)
        return result.outputs

    def _per_round(self, entry: _Entry, some: np.ndarray | None = None) -> np.ndarray:
        kept = slice(None) if some is None else some
        rounds = zip(entry.results, self.y, self.weights, strict=True)
        return np.array(
            [
                _metric(
                    self.metric,
                    self._outputs(result, self.metric)[kept],
                    y[kept],
                    None if weights is None else weights[kept],
                )
                for result, y, weights in rounds
            ]
        )

    def _interval(self, entry: _Entry, per_round: np.ndarray) -> tuple[float, float]:
        if self.rounds.folds:
            return corrected_interval(per_round, test_share=self.rounds.test_share, most=self._most())
        if len(entry.results) == 1:
            return bootstrap_interval(
                self.metric,
                self._outputs(entry.results[0], self.metric),
                self.y[0],
                groups=self.groups,
                sample_weights=self.weights[0],
            )
        return interval_of(self._resampled(entry, None), self.metric, groups=self.groups)

    def _most(self) -> float | None:
        """Independent images that the score of all folds is worth at most; None for a score without bounds."""
        if self.metric not in SHARES:
            return None
        y = np.concatenate(self.y[: self.rounds.folds])
        units = len(y) if self.groups is None else len(np.unique(self.groups))
        return min(float(units), effective_size(self.metric, y, classes=int(y.max()) + 1))

    def _test(self, entries: list[_Entry], some: np.ndarray | None) -> Comparison:
        names = [entry.candidate.name for entry in entries]
        return compare_all(names, self._paired(entries, some), higher_is_better=HIGHER_IS_BETTER[self.metric])

    def _paired(self, entries: list[_Entry], some: np.ndarray | None) -> PairedTest:
        share = self.metric in SHARES
        if self.rounds.folds:
            return corrected_t_test(
                [self._per_round(entry) for entry in entries],
                test_share=self.rounds.test_share,
                fold_images=self.rounds.images / self.rounds.folds if share else None,
            )
        if len(entries[0].results) == 1:
            kept = slice(None) if some is None else some
            groups = None if self.groups is None else self.groups[kept]
            outputs = [self._outputs(entry.results[0], self.metric)[kept] for entry in entries]
            weights = None if self.weights[0] is None else self.weights[0][kept]
            return paired_test(self.metric, outputs, self.y[0][kept], groups=groups, sample_weights=weights)
        return paired_bootstrap_test(
            [self._resampled(entry, some, resamples_for(len(entries))) for entry in entries], share=share
        )

    def _resampled(self, entry: _Entry, some: np.ndarray | None, resamples: int = RESAMPLES) -> Resampled:
        """The mean over seeds of the scores on the same resamples."""
        kept = slice(None) if some is None else some
        groups = None if self.groups is None else self.groups[kept]
        weights = None if self.weights[0] is None else self.weights[0][kept]
        each = [
            resample(
                self.metric,
                self._outputs(result, self.metric)[kept],
                self.y[0][kept],
                resamples=resamples,
                groups=groups,
                sample_weights=weights,
            )
            for result in entry.results
        ]
        values = np.mean([one.values for one in each], axis=0)
        return Resampled(float(np.mean([one.score for one in each])), values, each[0].size)


def require_metric(metric: str, task: str | None = None) -> str:
    """Refuses what is no metric of a comparison, or of another task.

    Raises:
        OptionError: With what is.
    """
    if metric not in HIGHER_IS_BETTER:
        known = METRICS_OF[task] if task else HIGHER_IS_BETTER
        raise OptionError(f"unknown metric {metric!r}; there are {', '.join(known)}.", metric=metric)
    if task and metric not in METRICS_OF[task]:
        raise OptionError(
            f"{opt.metric(metric)} is not for {LEARNED[task]}; needed: one of {', '.join(METRICS_OF[task])}.",
            metric=metric,
            task=task,
        )
    return metric


def _metric(name: str, outputs: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> float:
    return metric(name, outputs, y) if weights is None else float(metric(name, outputs, y, weights=weights[None])[0])


def _check(metric: str | None, cv: str | None, seeds: int, split: bool) -> None:
    if metric is not None:
        require_metric(metric)
    if seeds < 1:
        raise OptionError(f"{opt.seeds} is {seeds}; needed: at least 1.", seeds=seeds)
    if cv:
        folds_and_repeats(cv)
    if split and cv:
        raise OptionError(f"{opt.split} and {opt.cv} are two ways to score; give one of them.", cv=cv)
    if cv and seeds > 1:
        raise OptionError(
            f"{opt.seeds} does not go with {opt.cv}, whose repeats have seeds of their own, such as 5x4.",
            seeds=seeds,
            cv=cv,
        )


def _names(files: list[FeatureFile]) -> list[str]:
    """The backbones, or the files' names where backbones repeat."""
    backbones = [file.spec.backbone for file in files]
    return backbones if len(set(backbones)) == len(files) else [file.path.stem for file in files]


def _together(candidates: list[Candidate]) -> Iterator[Candidate]:
    """Heads on the same rows one after the other, and those that need Keras last, because they take longest."""
    return iter(sorted(candidates, key=lambda one: (one.file, one.head in ("mlp", "linear"))))


def _leaders(found: HeadsComparison) -> list[str]:
    """Names of the three best heads of the tie set."""
    return [score.name for score in found.scores if score.name in found.test.ties][:3]


def _save(
    found: HeadsComparison,
    candidates: list[Candidate],
    paths: Sequence[str | Path],
    out: str | Path | None,
    memory: int | None,
) -> Path:
    (chosen,) = (one for one in candidates if one.name == found.cheapest.name)
    with FeatureFile(paths[chosen.file]) as file:
        test = len(file.rows_of("test"))
        parts = ("train", "val") if test and len(file.rows_of("val")) else ("train",)
    with phase(f"training {chosen.name} on {' and '.join(parts)}"):
        done = train_head(paths[chosen.file], head=chosen.head, parts=parts, memory=memory, out=out, **chosen.options)
    return done.head.path
