"""One program for each contender, run alone in a process of its own: a task in, an outcome out."""
