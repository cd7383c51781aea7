SELECT fingerprint, seed, created_at, body FROM answer WHERE name = ?1;
