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
        ({"kind": "npy", "before": "{name}.npy", "after": "b.npy"}, "{name} stands for nothing"),
        ({"kind": "npy", "before": "{stem.npy", "after": "b.npy"}, "stands for nothing"),
        ({"kind": "npy", "before": "{stem}.npy", "after": "{stem}.npy"}, "name the same"),
        ({"kind": "csv"}, "kind"),
    ],
)
def test_sources_that_cannot_be_found_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        parse_section(values, "source", SourceSettings)
