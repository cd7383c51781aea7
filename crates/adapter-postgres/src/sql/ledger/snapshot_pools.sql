SELECT * FROM pool WHERE shard = $1 ORDER BY payer_is_org, payer_id, provider;
