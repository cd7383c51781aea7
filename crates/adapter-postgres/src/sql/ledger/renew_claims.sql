UPDATE idempotency AS i SET lease_until = n.lease_until
FROM unnest($1::uuid[], $2::timestamptz[]) AS n (name, lease_until)
WHERE i.name = n.name;
