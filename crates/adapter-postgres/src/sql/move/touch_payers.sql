INSERT INTO touched_payer SELECT * FROM unnest($1::boolean[], $2::uuid[]) ON CONFLICT DO NOTHING;
