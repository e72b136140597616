"""The demo: a real stream scored end to end, live on a terminal."""
