"""Sources of photographs, one file per source."""
