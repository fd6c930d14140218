from __future__ import annotations

import pytest

from pipeline.config import parse_section
from pipeline.errors import SettingsError
from pipeline.vision.external.settings import SourceSettings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "tags"}, "file must be given for kind: tags"),
        ({"kind": "npy", "before": "A/{stem}.npy"}, "after must be given"),
        ({"kind": "hdf5", "before": "A/{stem}", "after": "B/{stem}"}, "file must be given"),
        ({"kind": "tags", "file": "tags_{stem}.json"}, "may hold {split} only"),
        ({"kind": "npy", "before": "{name}.npy", "after": "b.npy"}, "{name} is no template field"),
        ({"kind": "npy", "before": "{stem.npy", "after": "b.npy"}, "is no template field"),
        ({"kind": "npy", "before": "{stem}.npy", "after": "{stem}.npy"}, "before and after are the same"),
        ({"kind": "csv"}, "kind"),
    ],
)
def test_incomplete_sources_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_section(values, "source", SourceSettings)
