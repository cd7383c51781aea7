COPY arriving_pool FROM STDIN (FORMAT binary)
