DELETE FROM pool AS p USING arriving_pool AS t WHERE t.payer_is_org = p.payer_is_org AND t.payer_id = p.payer_id AND t.provider = p.provider;
