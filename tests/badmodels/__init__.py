"""One way a bundle can be wrong, one test."""
