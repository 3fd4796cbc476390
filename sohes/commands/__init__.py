"""The tools around the pipeline, one file per family."""
