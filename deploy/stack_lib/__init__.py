"""Private RabbitMQ, Redis and SeaweedFS for tests and the demo. See `deploy/stack --help`."""
