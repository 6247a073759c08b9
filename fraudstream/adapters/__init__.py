"""The outside world: Kafka, Valkey, and the in-memory twin of the profile store."""
