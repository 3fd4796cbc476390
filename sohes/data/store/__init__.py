"""Images and labels as shards on disk."""
