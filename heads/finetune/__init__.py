"""Head and upper layers of the backbone trained together, from where the cached head ended."""

from onepass.heads.finetune.plan import KEEP, Plan, TuningStage
from onepass.heads.finetune.result import FineTuned
from onepass.heads.finetune.run import Sources, fine_tune

__all__ = ["KEEP", "FineTuned", "Plan", "Sources", "TuningStage", "fine_tune"]
