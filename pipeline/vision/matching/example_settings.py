"""Settings of the training examples of matchers: how two views of one image are made."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import Section


class ViewSettings(Section):
    """Geometry of the two views of an image."""

    shift: float = Field(2.0, ge=0, description="largest misregistration of co-registered views, in pixels")
    warped_share: float = Field(
        0.25, ge=0, le=1, description="share of examples whose later view is a random homography and crop instead"
    )
    warp: float = Field(
        0.08, ge=0, le=0.4, description="how far a homography moves a corner at most, as a share of the image's side"
    )
    smallest_crop: float = Field(0.8, gt=0.2, le=1, description="side of the smallest crop, as a share of the image's")


class AppearanceSettings(Section):
    """Differences in appearance between two views; 1 is about that of two acquisitions, 0 switches one off."""

    light: float = Field(1.0, ge=0, le=3, description="brightness, contrast, haze and colour balance")
    season: float = Field(1.0, ge=0, le=3, description="colour of what is green")
    shadow: float = Field(1.0, ge=0, le=3, description="shadows beside regions")
    blur: float = Field(1.0, ge=0, le=3, description="blur")
    noise: float = Field(1.0, ge=0, le=3, description="sensor noise")


class EditSettings(Section):
    """Random changes of the regions of each view, from which the matcher learns regions without counterpart."""

    drop: float = Field(0.15, ge=0, le=1, description="chance of a region to be left out, as SAM overlooks some")
    split: float = Field(0.04, ge=0, le=1, description="chance of a region to be cut in two")
    merge: float = Field(0.04, ge=0, le=1, description="chance of a region to be joined with its nearest neighbour")
    paste: float = Field(
        5.0,
        ge=0,
        description="mean number of regions of other images that are painted in: four in ten into both views, the "
        "others into one, where they appear or disappear",
    )
    replace: float = Field(
        0.6, ge=0, le=1, description="share of these that are painted over a region; the others come anywhere"
    )
    jitter: float = Field(
        0.04, ge=0, le=0.5, description="standard deviation of a box's edges, as a share of its side, for SAM's own"
    )
    score_jitter: float = Field(0.03, ge=0, le=0.5, description="standard deviation of the predicted IoU")


class ExampleSettings(Section):
    """How training examples are made from images with masks (principle of DeTone et al. 2018)."""

    per_image: int = Field(1, ge=1, le=100, description="examples made of every image")
    smallest_area: int = Field(12, ge=1, description="regions of fewer visible pixels are left out of a view")
    visible_share: float = Field(
        0.5, ge=0, le=1, description="regions of which less than this share is visible are left out of a view"
    )
    same_iou: float = Field(
        0.5, gt=0, le=1, description="IoU from which on what is left of a region in both views corresponds"
    )
    views: ViewSettings = Field(ViewSettings(), description="homographies and crops")
    appearance: AppearanceSettings = Field(AppearanceSettings(), description="light, season, shadow, blur, noise")
    edits: EditSettings = Field(EditSettings(), description="regions dropped, split, merged, painted in")


class AugmentSettings(Section):
    """What changes about stored examples from epoch to epoch; it costs next to nothing."""

    drop: float = Field(0.08, ge=0, le=0.5, description="chance of a region to be left out")
    replace: float = Field(0.08, ge=0, le=0.5, description="chance of a region to give way to another example's")
    shift: float = Field(0.7, ge=0, description="standard deviation of a shift of the later date, in pixels")
