"""An async handler of 10 ms, run by different consumers, each alone in a process of its own."""
