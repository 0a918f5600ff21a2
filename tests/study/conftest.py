"""What the processes of these tests work with is imported once, by the server that they are forked from."""

from nas.measure import child

child.PRELOADED += ["tests.study.crews", "tests.study.toys", "tests.study.test_loop_with_workers"]
