"""`dvt <command>`: load what was asked for, build it, call it; the only rooms that talk to a person."""
