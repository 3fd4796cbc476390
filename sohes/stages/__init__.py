"""One file per stage: read, call one function, write."""
