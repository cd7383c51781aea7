DELETE FROM budget AS b USING arriving_budget AS t WHERE t.payer_is_org = b.payer_is_org AND t.payer_id = b.payer_id;
