import pytest
from conftest import make_spec

from features import providers
from features.errors import BackboneError


def test_where_nobody_makes_backbones_it_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(providers, "entry_points", lambda **_: ())
    with pytest.raises(BackboneError) as caught:
        providers.backbone_of(make_spec(), {}, needed_by="x.head")
    assert str(caught.value) == (
        "no package here makes backbones. Install onepass with pip, so that its parts know each other."
    )
