"""Everything that talks to a store."""
