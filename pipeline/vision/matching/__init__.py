"""Region matching: SuperGlue and its siblings from region sets of both dates to matches and unmatched lists."""
