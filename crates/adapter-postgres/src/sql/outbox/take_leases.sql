UPDATE outbox_lease
SET fencing = fencing + (owner IS DISTINCT FROM $1)::integer, owner = $1, lease_until = clock_timestamp() + make_interval(secs => $2)
WHERE shard = ANY ($3)
RETURNING shard, fencing, published_through;
