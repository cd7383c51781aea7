-- A new name, or one whose attempt is over without an answer; no row for any other.
INSERT INTO answer AS a (name, fingerprint, seed, holder, lease_until, created_at) VALUES ($1, $2, $3, $3, $4, $5)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
WHERE a.body IS NULL AND a.fingerprint = excluded.fingerprint AND (a.holder = excluded.holder OR a.lease_until <= $5)
RETURNING seed, created_at;
