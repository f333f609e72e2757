"""One model out of backbone, preprocessing and head, proven from image files before it is kept."""

from onepass.heads.export.certificate import Certificate
from onepass.heads.export.export_source import ExportSources
from onepass.heads.export.run import Exported, export_model
from onepass.heads.export.verify import Verified, verify_model

__all__ = ["Certificate", "ExportSources", "Exported", "Verified", "export_model", "verify_model"]
