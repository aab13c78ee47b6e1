//! What a server remembers: tenants, wrapped customer keys, tokens, audit records; in SQLite, or in PostgreSQL for several nodes.
