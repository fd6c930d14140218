"""Names of the rows that an evaluation puts side by side."""

from __future__ import annotations

from typing import Final

MODEL: Final = "model"
"""The captioner; the mean over seeds when there are several."""

DEVIATION: Final = "model_deviation"
"""Sample standard deviation of `MODEL` over seeds."""

CONSTANT: Final = "constant"
"""The best constant sentence of the subset."""

TRUE_FLAG: Final = "true_flag"
"""The true change flag, said in one sentence for changed pairs and one for unchanged pairs."""

LABELS: Final = {MODEL: "model", CONSTANT: "best constant sentence", TRUE_FLAG: "true flag, generic sentence"}
"""How the rows are called in tables and plots."""
