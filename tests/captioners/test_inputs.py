from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.captioners.inputs import Regions, SideInputs, check_graph, check_shapes, validate_inputs
from pipeline.captioners.sage_cc import SageCC
from pipeline.errors import CheckpointError, DataError, SettingsError
from tests.captioners.fused import (
    SHAPES,
    fused_settings,
    make_fused,
    make_graph,
    make_regions,
    make_side_inputs,
    padded_further,
)
from tests.captioners.small import VOCABULARY


def test_padding_keeps_every_region_in_its_place():
    rows = [torch.randn(count, 3) for count in (2, 0, 4)]
    regions = Regions.padded(rows, dates=[torch.ones(len(x), dtype=torch.long) for x in rows])
    assert regions.features.shape == (3, 4, 3)
    assert regions.mask.sum(1).tolist() == [2, 0, 4]
    for pair, expected in enumerate(rows):
        assert torch.equal(regions.features[pair][regions.mask[pair]], expected)
        assert regions.dates[pair][regions.mask[pair]].tolist() == [1] * len(expected)


def test_no_regions_at_all():
    regions = Regions.padded([torch.zeros(0, 3), torch.zeros(0, 3)])
    assert regions.features.shape == (2, 0, 3)
    assert regions.mask.shape == (2, 0)
    assert regions.select(torch.tensor([1, 1, 0])).features.shape == (3, 0, 3)
    regions.check_values("inputs.regions")


@pytest.mark.parametrize("field", ["dates", "centroids", "scores", "rows"])
def test_fields_of_other_regions_are_refused(field):
    features = [torch.zeros(2, 3), torch.zeros(4, 3)]
    with pytest.raises(DataError, match=f"`{field}` are not of as many regions"):
        Regions.padded(features, **{field: [torch.zeros(4, 2), torch.zeros(2, 2)]})
    with pytest.raises(DataError, match=f"`{field}` are not of as many regions"):
        Regions.padded(features, **{field: [torch.zeros(2, 2)]})


def test_select_takes_all_fields_along():
    regions = make_regions((2, 0, 4), 3, seed=0)
    rows = torch.tensor([2, 0, 2])
    chosen = regions.select(rows)
    for name in ("features", "mask", "dates", "centroids", "scores", "rows"):
        assert torch.equal(getattr(chosen, name), getattr(regions, name)[rows])
    assert len(chosen) == 3
    assert torch.equal(chosen.to(torch.device("cpu")).features, chosen.features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(2, 3)}, "features.*must be .pairs, regions, width. of floats, not .2, 3."),
        ({"features": torch.zeros(2, 3, 4, dtype=torch.long)}, "of int64"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, "mask.*.2, 3. of booleans, not .2, 4."),
        ({"mask": torch.ones(2, 3)}, "mask.*not .2, 3. of float32"),
        ({"dates": torch.zeros(2, 3)}, "dates.*of int64, not"),
        ({"centroids": torch.zeros(2, 3)}, "centroids.*.2, 3, 2. of floats"),
        ({"scores": torch.zeros(2, 1)}, "scores.*.2, 3. of floats"),
        ({"rows": torch.zeros(2, 3)}, "rows.*of int64, not"),
    ],
)
def test_fields_that_do_not_belong_together_are_refused(changes, message):
    fields = {"features": torch.zeros(2, 3, 4), "mask": torch.ones(2, 3, dtype=torch.bool), **changes}
    with pytest.raises(DataError, match=message):
        Regions(**fields)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("features", torch.nan, "region 3 of pair 2 .* features that are not finite numbers"),
        ("centroids", 1.5, "region 3 of pair 2 .* centroids that are not shares of the image"),
        ("centroids", torch.nan, "centroids"),
        ("scores", torch.inf, "scores that are not finite"),
        ("dates", 2, "dates that are not 0 or 1"),
    ],
)
def test_values_that_cannot_be_are_named(field, value, message):
    regions = make_regions((2, 0, 4), 3, seed=0)
    regions.check_values("inputs.regions")
    getattr(regions, field)[2, 3] = value
    with pytest.raises(DataError, match=message) as caught:
        regions.check_values("inputs.regions")
    assert caught.value.where == f"inputs.regions.{field}"
    getattr(regions, field)[2, 3] = 0


def test_padding_may_hold_anything():
    padded_further(make_regions((2, 0, 4), 3, seed=0), 2).check_values("inputs.regions")


def test_about_the_share_of_the_regions_is_dropped_and_nothing_else():
    regions = make_regions((40, 0, 60), 3, seed=0)
    torch.manual_seed(0)
    thinned = regions.drop_regions(0.25)
    assert 55 < int(thinned.mask.sum()) < 95
    assert not (thinned.mask & ~regions.mask).any()
    assert torch.equal(thinned.features, regions.features)
    assert torch.equal(regions.drop_regions(0.0).mask, regions.mask)


def test_side_inputs_drop_regions_of_both_kinds_and_keep_the_graph():
    side_inputs = SideInputs(**make_side_inputs((40, 0, 60), (30, 30, 0)))
    torch.manual_seed(0)
    thinned = side_inputs.drop_regions(0.25)
    torch.manual_seed(0)
    # The regions draw first: the order decides what a seed gives.
    for name in ("regions", "semantics"):
        assert torch.equal(getattr(thinned, name).mask, getattr(side_inputs, name).drop_regions(0.25).mask)
    assert thinned.graph is side_inputs.graph
    assert SideInputs().drop_regions(0.25) == SideInputs()


def test_regions_of_no_pairs():
    assert len(make_regions((2, 0, 4), 5, seed=0).select(torch.tensor([], dtype=torch.long))) == 0


def test_moving_regions_moves_every_field():
    regions = make_regions((2, 0, 4), 5, seed=0).to(torch.device("meta"))
    devices = {getattr(regions, name).device.type for name in regions.__dataclass_fields__}
    assert devices == {"meta"}


FUSIONS = ["paper", "release"]


def without(regions: Regions, field: str) -> Regions:
    return replace(regions, **{field: None})


@pytest.mark.parametrize("name", ["regions", "semantics"])
def test_values_on_the_cpu_are_checked(name):
    side_inputs = make_side_inputs()
    side_inputs[name].features[0, 1, 2] = torch.nan
    with pytest.raises(DataError, match="region 1 of pair 0") as caught:
        validate_inputs(fused_settings("paper"), SHAPES, side_inputs, 3)
    assert caught.value.where == f"inputs.{name}.features"


def test_nodes_that_are_no_numbers_are_named():
    graph = make_graph()
    check_graph(graph)
    features = graph.features.clone()
    features[3, 0] = torch.inf
    spoilt = replace(graph, features=features)
    with pytest.raises(DataError, match="node 3 of the graph"):
        check_graph(spoilt)
    with pytest.raises(DataError, match="node 3 of the graph") as caught:
        validate_inputs(fused_settings("paper"), SHAPES, {**make_side_inputs(), "graph": spoilt}, 3)
    assert caught.value.where == "inputs.graph.features"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_validated_inputs_are_those_that_the_settings_read(fusion):
    side_inputs = make_side_inputs()
    assert validate_inputs(fused_settings(fusion), SHAPES, side_inputs, 3) == SideInputs(**side_inputs)
    only_semantics = fused_settings(fusion, inputs={"regions": False, "graph": False})
    checked = validate_inputs(only_semantics, {"semantics": (7,)}, side_inputs, 3)
    assert checked == SideInputs(semantics=side_inputs["semantics"])


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("name", "stage"), [("regions", "matches"), ("semantics", "semantics"), ("graph", "graph")])
def test_an_input_that_is_read_has_to_be_given(scenes, fusion, name, stage):
    model = make_fused(fusion)
    inputs = {"scenes": scenes, **make_side_inputs()}
    del inputs[name]
    with pytest.raises(DataError, match=r"reads .*none are given") as caught:
        model.encode(inputs)
    assert caught.value.where == f"inputs.{name}"
    assert f"sagecc {stage}" in caught.value.fix
    with pytest.raises(DataError, match="none are given"):
        model.encode({**inputs, name: None})
    with pytest.raises(DataError, match="none are given"):
        model.encode({"scenes": scenes})
    make_fused(fusion, inputs={name: False}).encode(inputs)


@pytest.mark.parametrize("fusion", ["none", *FUSIONS])
def test_scenes_that_are_read_have_to_be_given(fusion):
    with pytest.raises(DataError, match="reads scenes, and none are given") as caught:
        make_fused(fusion).encode(make_side_inputs())
    assert caught.value.where == "inputs.scenes"


@pytest.mark.parametrize("name", ["regions", "semantics", "graph"])
def test_a_captioner_is_not_built_for_an_input_of_unknown_shape(name):
    shapes = {key: shape for key, shape in SHAPES.items() if key != name}
    with pytest.raises(SettingsError, match=r"fusion: paper. reads .*there are none") as caught:
        SageCC(fused_settings("paper"), VOCABULARY, shapes)
    assert caught.value.where == f"inputs.{name}"
    SageCC(fused_settings("paper", inputs={name: False}), VOCABULARY, shapes)
    with pytest.raises(SettingsError):
        SageCC(fused_settings("release"), VOCABULARY, {"scenes": SHAPES["scenes"]})


@pytest.mark.parametrize("fusion", ["none", *FUSIONS])
def test_shapes_are_checked_for_what_the_settings_read(fusion):
    check_shapes(fused_settings(fusion), SHAPES)
    with pytest.raises(SettingsError, match="reads scenes, and there are none") as caught:
        check_shapes(fused_settings(fusion), {})
    assert caught.value.where == "inputs.scenes" and "sagecc scenes" in caught.value.fix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"regions": make_regions((1, 1, 1), 4, 0)},
            "reads unmatched regions of width 5, given of width 4",
        ),
        ({"semantics": make_regions((1, 1, 1), 5, 0)}, "reads semantic regions of width 7, given of width 5"),
        (
            {"graph": replace(make_graph(), features=torch.zeros(5, 3))},
            "reads a caption graph with node features of width 6, given with node features of width 3",
        ),
        (
            {"graph": replace(make_graph(), relations=9)},
            "reads a caption graph of 4 relations, given of 9 relations",
        ),
    ],
)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_other_widths_are_refused(scenes, fusion, changes, message):
    with pytest.raises(CheckpointError, match=message):
        make_fused(fusion).encode({"scenes": scenes, **make_side_inputs(), **changes})


@pytest.mark.parametrize("fusion", FUSIONS)
def test_values_that_are_no_numbers_are_named(scenes, fusion):
    inputs = {"scenes": scenes, **make_side_inputs()}
    inputs["semantics"].features[1, 0, 2] = torch.nan
    with pytest.raises(DataError, match="region 0 of pair 1 of the batch has features that are not finite") as caught:
        make_fused(fusion).encode(inputs)
    assert caught.value.where == "inputs.semantics.features"
    make_fused(fusion, inputs={"semantics": False}).encode(inputs)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_regions_of_other_pairs_than_the_scenes_are_refused(scenes, fusion):
    with pytest.raises(DataError, match="regions of 3 pairs cannot go with scenes of 2"):
        make_fused(fusion).encode({"scenes": scenes[:2], **make_side_inputs()})


@pytest.mark.parametrize(("name", "noun"), [("regions", "unmatched regions"), ("semantics", "semantic regions")])
def test_regions_of_different_pairs_are_refused(name, noun):
    side_inputs = {**make_side_inputs(), name: make_regions((1, 2), SHAPES[name][0], seed=0)}
    with pytest.raises(DataError, match=f"{noun} of 2 pairs cannot go with scenes of 3") as caught:
        validate_inputs(fused_settings("paper"), SHAPES, side_inputs, 3)
    assert caught.value.where == f"inputs.{name}"


def test_fields_that_the_settings_use_have_to_be_given(scenes):
    inputs = {"scenes": scenes, **make_side_inputs()}
    bare = {**inputs, "regions": without(inputs["regions"], "centroids")}
    with pytest.raises(DataError, match="unmatched regions come without centroids"):
        make_fused("paper").encode(bare)
    make_fused("release").encode(bare)

    for name in ("regions", "semantics"):
        bare = {**inputs, name: without(inputs[name], "dates")}
        with pytest.raises(DataError, match="regions come without dates"):
            make_fused("paper").encode(bare)
        undated = make_fused("paper", inputs={"date_embedding": False})
        undated.encode(bare)
        with pytest.raises(DataError, match="regions come without dates") as caught:
            make_fused("paper", inputs={"date_embedding": False}, paper={"dates_apart": True}).encode(bare)
        assert "paper.dates_apart" in caught.value.fix

    bare = {**inputs, "semantics": without(inputs["semantics"], "scores")}
    with pytest.raises(DataError, match="semantic regions come without scores"):
        make_fused("paper", inputs={"top_q": 2}).encode(bare)
    make_fused("paper").encode(bare)


def test_a_captioner_without_fusion_ignores_side_inputs(model, scenes):
    odd = {"scenes": scenes, "regions": make_regions((1,), 2, 0)}
    assert torch.equal(model.encode(odd).tokens, model.encode({"scenes": scenes}).tokens)
    assert model.fusion is None
    assert set(model.shapes) == {"scenes"}
