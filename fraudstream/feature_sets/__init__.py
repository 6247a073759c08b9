"""Feature sets that come with the package."""
