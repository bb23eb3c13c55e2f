"""All records about a person or a tenant, and everything made from them, removed."""
