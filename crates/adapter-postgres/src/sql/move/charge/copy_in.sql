COPY arriving_charge FROM STDIN (FORMAT binary)
