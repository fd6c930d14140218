"""Pictures for people: masks, matches and semantic regions drawn over the images they belong to."""
