"""The `sohes` commands: `sohes NAME` is NAME.py; the seven stages share stages.py."""
