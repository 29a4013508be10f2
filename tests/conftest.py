"""Nothing a test starts outlives it, and the tests of one machine do not meet."""
