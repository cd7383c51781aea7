SELECT budget.*
FROM jsonb_each(?1) AS wanted
CROSS JOIN budget
    ON budget.payer_kind = wanted.value ->> 'payer_kind'
    AND budget.tenant = unhex(wanted.value ->> 'tenant', '-')
    AND budget.member = unhex(wanted.value ->> 'member', '-')
