"""Labels and predictions as other people's tools write and read them, one file a format."""
