"""What the PostgreSQL store is made of: its SQL, its schema, its connections, its notices."""
