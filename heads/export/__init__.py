"""One model out of backbone, preprocessing and head, proven from image files before it is kept."""

from heads.export.certificate import Certificate
from heads.export.origin import ExportSources
from heads.export.run import Exported, export_model
from heads.export.verify import Verified, verify_model

__all__ = ["Certificate", "ExportSources", "Exported", "Verified", "export_model", "verify_model"]
