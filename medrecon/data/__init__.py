"""Files and arrays: pure functions, one module per format or task."""
