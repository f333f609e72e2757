"""Copies of one picture, found once the rows are there, and the split drawn so that they share a side."""

from dataclasses import replace

import numpy as np

from onepass.extract.data.splits import draw_splits
from onepass.extract.one_pass.resolve import Job
from onepass.features import FeatureFile
from onepass.features.progress import phase
from onepass.features.writer import RowWriter, write_feature_file


def keep_copies(job: Job) -> None:
    """Finds copies among the images of a feature file and keeps them there; a drawn split is drawn with them.

    Nothing is searched where the file has the same rows and thumbnails as at the last search. Images that had a
    side keep it, unless copies of them turn out to lie on the other.
    """
    with FeatureFile(job.path) as file:
        if file.kept_copies() is None:
            with phase("searching for copies"):
                _put(job, file.copies)
        copies = file.copies
        if not job.scan.drawn:
            return
        table = file.table
        known = job.old.table if job.old and job.old.provenance.get("drawn_split") else None
        splits = draw_splits(
            table.strata(), table.content_hashes, table.groups, copies=copies, known=known, seed=job.scan.seed
        )
        if (splits != table.splits).any():
            drawn = replace(table, splits=splits)
            write_feature_file(
                job.path, file.spec, drawn, file.provenance, file.golden_rows, views=file.views, old=file
            )
            _put(job, copies)


def _put(job: Job, copies: np.ndarray) -> None:
    with RowWriter(job.path) as writer:
        writer.put_copies(copies)
