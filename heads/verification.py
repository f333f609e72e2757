"""Verifies what lies on disk: a feature file by its checksums and golden rows, an exported model by its images."""

from collections.abc import Sequence
from pathlib import Path

from onepass.extract import Verification, check_running
from onepass.extract import verify as verify_features
from onepass.features import only_feature_file
from onepass.features.errors import OptionError, opt
from onepass.heads.export.verify import VerifiedExport, looks_exported, verify_export


def verify(
    file: str | Path | None = None,
    certificate: str | Path | None = None,
    *,
    data: str | Path | Sequence[str | Path] = (),
    golden: bool = True,
    weights: str | None = None,
    engine: str = "auto",
) -> Verification | VerifiedExport:
    """Looks whether a feature file is as it was written, or an exported model does what its certificate says.

    Args:
        file: Feature file, by default the one in the current folder, or exported model.
        certificate: Of an exported model; by default what lies beside it.
        data: Where the images of a certificate lie; by default below the current folder.
        golden: Whether to compute the golden rows of a feature file again.
        weights: Where the backbone's weights or `.keras` file lie now, if not where they were.
        engine: openvino, tensorflow or auto.

    Raises:
        UserError: As `verify_features` and `verify_export`.

    >>> verify("photos.resnet50.h5").verdict  # doctest: +SKIP
    'whole'
    """
    check_running(engine=engine, data=data, weights=weights)
    if file is not None and (certificate or looks_exported(Path(file))):
        return verify_export(file, certificate, data=data)
    if data:
        raise OptionError(
            f"{opt.data} says where the images of an exported model's certificate lie; name the model.", data=data
        )
    return verify_features(only_feature_file() if file is None else file, golden=golden, weights=weights, engine=engine)
