-- Whole tables, so whole scans and joins of sets.
SELECT set_config('statement_timeout', '10min', true), set_config('enable_seqscan', 'on', true),
       set_config('enable_hashjoin', 'on', true), set_config('enable_mergejoin', 'on', true);
