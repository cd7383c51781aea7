COPY arriving_budget FROM STDIN (FORMAT binary)
