-- See the migrations.
SELECT first_attempt, first_at FROM begin_answer($1, $2, $3, $4, $5);
