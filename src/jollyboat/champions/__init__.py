"""Which bundle serves each tenant: promotion and rollback by one pointer."""
