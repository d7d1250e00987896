"""Load on a live server: who sends what when, in which processes, and what came of it."""
