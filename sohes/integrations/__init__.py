"""Our labels and models in other people's tools, each in a file of its own."""
