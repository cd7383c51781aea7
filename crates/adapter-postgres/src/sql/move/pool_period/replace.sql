DELETE FROM pool_period AS p USING arriving_pool_period AS t WHERE t.payer_is_org = p.payer_is_org AND t.payer_id = p.payer_id AND t.provider = p.provider AND t.starts_at = p.starts_at;
