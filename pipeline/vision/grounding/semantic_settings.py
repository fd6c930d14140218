"""How detections become semantic regions and maps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config import Section
from pipeline.vision.grounding.settings import GroundingSettings
from pipeline.vision.regions.settings import HeadSettings, RoiSettings
from pipeline.vision.sam.settings import SamSettings

Space = Literal["grounding", "aligned"]


class SemanticRegionSettings(Section):
    """Semantic regions: detector, masks by SAM, descriptors, similarity to the prompts and choice of the best."""

    grounding: GroundingSettings = Field(GroundingSettings(), description="the detector and its prompts")
    sam: SamSettings = Field(SamSettings(), description="the SAM that turns boxes into masks")
    roi: RoiSettings = Field(RoiSettings(), description="RoIAlign on SAM's feature map, as for the regions of masks")
    head: HeadSettings = Field(HeadSettings(), description="descriptor head g")
    space: Space = Field(
        "grounding",
        description="where regions and prompts are compared, which equation (11) leaves open; grounding: the "
        "detector's own queries and text tokens; aligned: RoI descriptors by a linear map fitted to the data set",
    )
    alignment_images: int = Field(
        200,
        ge=1,
        description="images of the training split, evenly spread, that the linear map of aligned is fitted to",
    )
    ridge: float = Field(0.1, gt=0, description="weight of that fit's penalty on large weights")
    q: int = Field(10, ge=1, le=900, description="regions selected, equation (12) (paper: not stated)")
    select: Literal["image", "category"] = Field(
        "image", description="image: the best q of an image, as in equation (12); category: the best q of each category"
    )
    map_size: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="side in pixels that semantic maps are resized to (nearest); null: the images' size, which must "
        "then be the same for all",
    )
