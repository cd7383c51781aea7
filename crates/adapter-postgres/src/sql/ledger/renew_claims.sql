UPDATE idempotency AS i SET lease_until = n.lease_until
FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS n (scope, key, lease_until)
WHERE i.scope = n.scope AND i.key = n.key;
