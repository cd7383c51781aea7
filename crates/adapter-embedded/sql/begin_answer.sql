-- A new name, or one whose attempt is over without an answer; no row for any other.
INSERT INTO answer (name, fingerprint, seed, holder, lease_until, created_at) VALUES (?1, ?2, ?3, ?3, ?4, ?5)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
WHERE answer.body IS NULL AND answer.fingerprint = excluded.fingerprint AND (answer.holder = excluded.holder OR answer.lease_until <= ?5)
RETURNING seed, created_at;
