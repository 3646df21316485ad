"""Out to a hub: what surgeon wrote, checked against its lineage first, in one commit."""
